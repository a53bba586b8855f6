"""`cce`: a centroid and a hashed correction, clustered again as training goes on (CCE, NeurIPS'23).

    tracked    M pieces, each centroid[code] + correction[hash]        the code is the feature's own
    cold       a hashed row of the field

Kept of the paper: the sum of two small tables, and the step every 64 batches: k-means over the vectors as they are,
codes and centroids from it, a new hash, and corrections that start from the means of what the centroids leave. Not
kept: a code for every feature of the vocabulary (M bytes or more each): only tracked features have codes. A feature
that becomes tracked gets the centroids nearest to the vector that it had.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sketch.hashing import GOLDEN_RATIO, mix64_array
from trainer.embedding.plans import largest_fitting
from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.ranks import COLD, Moves, ranks_bytes
from trainer.evaluate.methods.row_tables import Rows
from trainer.evaluate.methods.tiered import CodedRows, Tier, TierPlan
from trainer.serving.compression.k_means import cluster, nearest

__all__ = ["Cce", "build"]

_PARTS = 4
_TRACKED_PER_CENTROID = 8
_UNIQUE_SHARE = 0.5
_STEPS = 64  # between two clusterings
_CODE_BYTES = 4
_HALF = np.uint64(32)
_LEAST_WEIGHT = 1e-3

Ids = npt.NDArray[np.int64]


class Cce(CodedRows):
    """Codes, centroids and corrections.

    Knobs: `parts` (M), `unique_share` (of the bytes, for tracked features) and `row_format`.

    Attributes:
        codes: (tracked, M) int32, the centroid of each part.
        num_centroids: of a part, and its corrections.
        num_clusterings: so far.
    """

    def __init__(self, brief: Brief, plan: TierPlan, num_tracked: int, parts: int) -> None:
        super().__init__(brief, plan, num_coded=num_tracked)
        self.num_centroids = _num_centroids(num_tracked)
        width, count = brief.dim // parts, parts * self.num_centroids
        for salt in (1, 2):  # centroids, corrections
            self.tables.append(Rows(count, brief, dim=width, row_format=brief.row_format, salt=salt))
        self.codes = np.zeros((num_tracked, parts), np.int32)
        self._firsts = np.arange(parts) * self.num_centroids  # of each part
        self._seed, self._num_steps, self.num_clusterings = brief.seed, 0, 0

    def locate(self, ids: Ids, tier: Ids, row: Ids) -> tuple[Ids, Ids]:
        """As `TieredRows.locate`: rows (N, 2 M), centroids before corrections; a shared row comes first."""
        is_tracked = tier != COLD
        rows = np.empty((len(ids), 2 * len(self._firsts)), np.int64)
        rows[:, 0] = self.shared_rows(ids)
        codes = self.codes[row[is_tracked]] + self._firsts
        rows[is_tracked] = np.concatenate([codes, self.corrections_of(ids[is_tracked])], axis=1)
        return is_tracked.astype(np.int64), rows

    def corrections_of(self, ids: Ids) -> Ids:
        """The rows (K, M) of the corrections of features (K,), by the present hash."""
        numbers = np.arange(len(self._firsts)) + len(self._firsts) * self.num_clusterings + (self._seed << 32) + 1
        salts = mix64_array(numbers.astype(np.uint64) * GOLDEN_RATIO)
        hashed = mix64_array(ids.astype(np.uint64)[:, None] ^ salts) >> _HALF
        return (hashed * np.uint64(self.num_centroids) >> _HALF).astype(np.int64) + self._firsts

    def gather(self, number: int, rows: Ids, *, learns: bool) -> Tensor:
        """As `TieredRows.gather`."""
        if number == 0:
            return super().gather(0, rows[:, 0], learns=learns)
        parts = len(self._firsts)
        centroids = super().gather(1, rows[:, :parts], learns=learns)
        return centroids + super().gather(2, rows[:, parts:], learns=learns)

    def demote(self, moves: Moves, vectors: Tensor) -> None:
        """As `TieredRows.demote`: what becomes tracked gets the centroids nearest to its vector."""
        is_new = (moves.tier == COLD) & (moves.to_tier != COLD)
        if is_new.any():
            self.codes[moves.to_row[is_new]] = self._nearest(vectors[is_new].numpy())

    def _nearest(self, vectors: npt.NDArray[np.float32]) -> Ids:
        pieces = np.split(vectors, len(self._firsts), axis=1)
        found = [nearest(piece, self._centroids(part)) for part, piece in enumerate(pieces)]
        return np.stack(found, axis=1)

    def _centroids(self, part: int) -> npt.NDArray[np.float32]:
        first = int(self._firsts[part])
        return self._rows[1].gather(np.arange(first, first + self.num_centroids)).numpy()

    @torch.no_grad()
    def learn(self) -> None:
        """As `Method.learn`."""
        super().learn()
        self._num_steps += 1
        if self._num_steps % _STEPS == 0:
            self.recluster()

    @torch.no_grad()
    def recluster(self) -> None:
        """Clusters the vectors of the tracked features, and gives them new codes, hashes and corrections."""
        ids, tier, row = self.ranks.tracked()
        if not len(ids):
            return
        vectors = self._read(*self.locate(ids, tier, row), learns=False).numpy()
        scores = self.ranks.hot_set.sketch.query((ids + 1).view(np.uint64)).astype(np.float64)
        weights = np.maximum(scores, _LEAST_WEIGHT)
        self.num_clusterings += 1
        rng = np.random.default_rng([self._seed, self.num_clusterings])
        corrections = self.corrections_of(ids)  # (K, M)
        for part, pieces in enumerate(np.split(vectors, len(self._firsts), axis=1)):
            centroids = cluster(np.ascontiguousarray(pieces), weights, self.num_centroids, rng)
            self._write(1, np.arange(len(centroids)) + self._firsts[part], centroids)
            codes = nearest(pieces, self._centroids(part)[: len(centroids)])
            self.codes[row, part] = codes
            left = pieces - self._centroids(part)[codes]
            self._write(2, *_means(corrections[:, part], left, weights))
            unused = np.setdiff1d(np.arange(self.num_centroids) + self._firsts[part], corrections[:, part])
            self._write(2, unused, np.zeros((len(unused), pieces.shape[1]), np.float32))

    def _write(self, number: int, rows: Ids, vectors: npt.NDArray[np.float32]) -> None:
        """Overwrites distinct rows (K,) of a table; their optimizer state stays."""
        store, addresses = self._rows[number].store, torch.from_numpy(rows)[:, None]
        store.write(addresses, torch.from_numpy(vectors), state=store.state_of(addresses))


def _means(
    rows: Ids, vectors: npt.NDArray[np.float32], weights: npt.NDArray[np.float64]
) -> tuple[Ids, npt.NDArray[np.float32]]:
    """The distinct rows (P,), and the weighted mean (P, d) of the vectors (K, d) of each."""
    distinct, inverse = np.unique(rows, return_inverse=True)
    sums = np.zeros((len(distinct), vectors.shape[1]))
    np.add.at(sums, inverse, vectors * weights[:, None])
    return distinct, (sums / np.bincount(inverse, weights)[:, None]).astype(np.float32)


def _num_centroids(num_tracked: int) -> int:
    return max(1, num_tracked // _TRACKED_PER_CENTROID)


def build(brief: Brief) -> Cce | Infeasible:
    """Codes, centroids and corrections for `unique_share` of the bytes, rows of cold features for the rest."""
    parts, fewest = int(brief.number("parts", _PARTS)), len(brief.field_sizes)
    if brief.dim % parts:
        return Infeasible(f"{parts} parts do not divide dimension {brief.dim}")
    row_bytes, piece_bytes = (brief.row_bytes(brief.row_format, dim) for dim in (brief.dim, brief.dim // parts))
    room = brief.budget_bytes - row_bytes - 2 * piece_bytes

    def nbytes(num_tracked: int) -> int:
        pieces = 2 * parts * _num_centroids(num_tracked) * piece_bytes
        return num_tracked * parts * _CODE_BYTES + pieces + ranks_bytes(num_tracked)

    least = nbytes(1) + fewest * row_bytes
    if least > room:
        needed = least + row_bytes + 2 * piece_bytes
        return Infeasible(
            f"{parts} codes, centroids and corrections and one row per field need {needed} bytes, "
            f"got {brief.budget_bytes}"
        )
    most = min(brief.number("unique_share", _UNIQUE_SHARE) * room, room - fewest * row_bytes)
    num_tracked = largest_fitting(lambda count: nbytes(count) <= most, 1, max(2, brief.budget_bytes // 8))
    num_tracked = min(num_tracked, brief.num_features)
    plan = TierPlan(
        tiers=(),
        capacities=(),
        cold=Tier(row_format=brief.row_format, dim=brief.dim),
        num_shared=(room - nbytes(num_tracked)) // row_bytes,
    )
    return Cce(brief, plan, num_tracked, parts)
