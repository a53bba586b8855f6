"""`saec`: hot features have rows, all others share the centroids of their field (Saec, APSys'20), trained online.

    hot       the most important features          a row
    coded     the next ones, four times as many    a code: the number of a centroid of the field
    cold      the rest                             a hashed centroid of the field

Kept of the paper: clusters within a field, k-means in which a feature weighs as often as it occurs, and important
features first. Not kept: the clustering of a finished table. Here a centroid learns from the gradients of all features
that read it, and clusters form at demotions: the feature goes to the nearest centroid of its field, instead of losing
its vector, and moves that centroid towards itself by its share of the importance of the two. A feature that becomes
coded keeps the centroid it read, and a promotion copies the centroid, so both change no vector.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.embedding.plans import largest_fitting
from trainer.evaluate.methods.centroids import attract
from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.ranks import COLD, Moves, ranks_bytes
from trainer.evaluate.methods.tiered import CodedRows, Tier, TierPlan

__all__ = ["Saec", "build"]

_CODED_PER_HOT = 4
_CODE_BYTES, _MASS_BYTES = 4, 4
_UNIQUE_SHARE = 0.5

Ids = npt.NDArray[np.int64]


class Saec(CodedRows):
    """Rows, codes and centroids.

    Knobs: `unique_share` (of the bytes, for rows, codes and their tracker) and `row_format`.

    Attributes:
        codes: (coded,) int32, the centroid of each coded feature.
        mass: (centroids,) float32, the importance of the features that were demoted to each.
    """

    def __init__(self, brief: Brief, plan: TierPlan, num_coded: int) -> None:
        super().__init__(brief, plan, num_coded=num_coded)
        self.codes = np.zeros(num_coded, np.int32)
        self.mass = np.zeros(self._rows[1].padding, np.float32)

    def locate(self, ids: Ids, tier: Ids, row: Ids) -> tuple[Ids, Ids]:
        """As `TieredRows.locate`; a code is a row of the shared ones."""
        shared = self.shared_rows(ids)
        is_coded = tier == 1
        shared[is_coded] = self.codes[row[is_coded]]
        return np.where(tier == 0, 0, 1), np.where(tier == 0, row, shared)

    def demote(self, moves: Moves, vectors: Tensor) -> None:
        """As `TieredRows.demote`: the nearest centroid, which moves; a feature that was cold keeps its own."""
        was_cold = (moves.tier == COLD) & (moves.to_tier == 1)
        self.codes[moves.to_row[was_cold]] = self.shared_rows(moves.ids[was_cold])
        demoted = np.flatnonzero((moves.tier == 0) & (moves.to_tier == 1))
        if not len(demoted):
            return
        ids = moves.ids[demoted]
        weights = self.ranks.hot_set.sketch.query((ids + 1).view(np.uint64))
        for field in np.unique(self.fields(ids)):
            own = self.fields(ids) == field
            chosen = self._cluster(int(field), vectors[torch.from_numpy(demoted[own])], weights[own])
            self.codes[moves.to_row[demoted[own]]] = chosen

    def _cluster(self, field: int, vectors: Tensor, weights: npt.NDArray[np.float32]) -> Ids:
        """The centroids (K,) nearest to vectors (K, D) of a field, each of which moves to the mean of what it gets."""
        first, count = self._row_hash.first_rows[field], self._row_hash.rows[field]
        mass = self.mass[first : first + count]
        return first + attract(self._rows[1].store, int(first), mass, vectors, weights)


def build(brief: Brief) -> Saec | Infeasible:
    """Rows and codes for `unique_share` of the bytes, centroids for the rest, one per field at least."""
    row_bytes, fewest = brief.row_bytes(brief.row_format), len(brief.field_sizes)
    shared_bytes = row_bytes + _MASS_BYTES
    room = brief.budget_bytes - 2 * row_bytes

    def nbytes(num_hot: int) -> int:
        num_coded = _CODED_PER_HOT * num_hot
        return num_hot * row_bytes + num_coded * _CODE_BYTES + ranks_bytes(num_hot + num_coded)

    least = nbytes(1) + fewest * shared_bytes
    if least > room:
        return Infeasible(
            f"one row, {_CODED_PER_HOT} codes and one centroid per field need {least + 2 * row_bytes} bytes, "
            f"got {brief.budget_bytes}"
        )
    most = min(brief.number("unique_share", _UNIQUE_SHARE) * room, room - fewest * shared_bytes)
    num_hot = largest_fitting(lambda count: nbytes(count) <= most, 1, max(2, brief.budget_bytes // 8))
    num_hot = min(num_hot, math.ceil(brief.num_features / _CODED_PER_HOT))
    tier = Tier(row_format=brief.row_format, dim=brief.dim)
    num_shared = (room - nbytes(num_hot)) // shared_bytes
    plan = TierPlan(tiers=(tier,), capacities=(num_hot,), cold=tier, num_shared=num_shared)
    return Saec(brief, plan, _CODED_PER_HOT * num_hot)
