"""`mec`: product-quantised codes with books that popular features shape (MEC, DASFAA'25), trained online.

    hot       the most important features          a row
    coded     the next ones, four times as many    M codes: the numbers of pieces in the books of their field
    cold      the rest                             M hashed codes

A vector consists of M pieces of D / M values, one from each book of the field. Kept of the paper: product quantisation
by field, books in which a feature weighs with the logarithm of its popularity, and pieces that go on learning behind
fixed codes. Not kept: the first training that gives the vectors to quantise, the contrastive loss between codes, and a
code for every feature: at 4 codes of two bytes, those of the vocabulary alone limit the ratio to 8. Here the vectors
are those of hot features: a demotion finds the nearest piece in each book, which moves towards what comes to it. A
feature that becomes coded keeps its hashed codes, and a promotion copies the vector, so both change no vector.
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
from trainer.evaluate.methods.row_hash import RowHash
from trainer.evaluate.methods.tiered import CodedRows, Tier, TierPlan

__all__ = ["Mec", "build"]

_PARTS, _CODED_PER_HOT = 4, 4
_MASS_BYTES, _UNIQUE_SHARE = 4, 0.5
_MOST_SHORT = 1 << 16  # pieces that codes of two bytes can name
_LEAST_WEIGHT = 1e-3

Ids = npt.NDArray[np.int64]


class Mec(CodedRows):
    """Rows, codes and books.

    Knobs: `parts` (M), `unique_share` (of the bytes, for rows, codes and their tracker) and `row_format`.

    Attributes:
        codes: (coded, M), the piece of each coded feature in each book.
        mass: (M pieces,) float32, the weight of the features that were demoted to each.
        num_pieces: of a book, those of all fields together.
    """

    def __init__(self, brief: Brief, plan: TierPlan, num_coded: int, code_bytes: int) -> None:
        parts = brief.dim // plan.cold.dim
        super().__init__(brief, plan, num_coded=num_coded, parts=parts)
        rows, self.num_pieces = self._row_hash.rows, self._row_hash.num_rows
        self._hashes = [RowHash(brief.field_sizes, rows, brief.seed * parts + part) for part in range(parts)]
        self.codes = np.zeros((num_coded, parts), np.uint16 if code_bytes == 2 else np.int32)
        self.mass = np.zeros(parts * self.num_pieces, np.float32)

    def locate(self, ids: Ids, tier: Ids, row: Ids) -> tuple[Ids, Ids]:
        """As `TieredRows.locate`, rows (N, M); that of a hot feature comes first."""
        codes = self.hashed_codes(ids)
        is_coded, is_hot = tier == 1, tier == 0
        codes[is_coded] = self.codes[row[is_coded]]
        rows = codes + np.arange(len(self._hashes)) * self.num_pieces
        rows[is_hot, 0] = row[is_hot]
        return np.where(is_hot, 0, 1), rows

    def hashed_codes(self, ids: Ids) -> Ids:
        """The codes (N, M) of features (N,) that have none of their own."""
        fields = self.fields(ids)
        return np.stack([row_hash.of_fields(ids, fields) for row_hash in self._hashes], axis=1)

    def demote(self, moves: Moves, vectors: Tensor) -> None:
        """As `TieredRows.demote`: the nearest pieces, which move; a feature that was cold keeps its hashed codes."""
        was_cold = (moves.tier == COLD) & (moves.to_tier == 1)
        self.codes[moves.to_row[was_cold]] = self.hashed_codes(moves.ids[was_cold])
        demoted = np.flatnonzero((moves.tier == 0) & (moves.to_tier == 1))
        if not len(demoted):
            return
        ids = moves.ids[demoted]
        scores = self.ranks.hot_set.sketch.query((ids + 1).view(np.uint64))
        weights = np.maximum(np.log2(1 + scores), _LEAST_WEIGHT).astype(np.float32)
        for field in np.unique(self.fields(ids)):
            own = np.flatnonzero(self.fields(ids) == field)
            self.codes[moves.to_row[demoted[own]]] = self.encode(int(field), vectors[demoted[own]], weights[own])

    def encode(self, field: int, vectors: Tensor, weights: npt.NDArray[np.float32]) -> Ids:
        """The codes (K, M) of the pieces nearest to vectors (K, D) of a field, which move towards them."""
        first, count = int(self._row_hash.first_rows[field]), int(self._row_hash.rows[field])
        store, found = self._rows[1].store, []
        for part, pieces in enumerate(torch.split(vectors, store.dim, dim=1)):
            start = part * self.num_pieces + first
            found.append(first + attract(store, start, self.mass[start : start + count], pieces, weights))
        return np.stack(found, axis=1)


def build(brief: Brief) -> Mec | Infeasible:
    """Rows and codes for `unique_share` of the bytes, books for the rest, of one piece per field at least."""
    parts, fewest = int(brief.number("parts", _PARTS)), len(brief.field_sizes)
    if brief.dim % parts:
        return Infeasible(f"{parts} parts do not divide dimension {brief.dim}")
    row_bytes, piece_bytes = (brief.row_bytes(brief.row_format, dim) for dim in (brief.dim, brief.dim // parts))
    shared_bytes = parts * (piece_bytes + _MASS_BYTES)  # of one piece in every book
    code_bytes = 2 if brief.budget_bytes // shared_bytes <= _MOST_SHORT else 4
    room = brief.budget_bytes - row_bytes - piece_bytes

    def nbytes(num_hot: int) -> int:
        num_coded = _CODED_PER_HOT * num_hot
        return num_hot * row_bytes + num_coded * parts * code_bytes + ranks_bytes(num_hot + num_coded)

    least = nbytes(1) + fewest * shared_bytes
    if least > room:
        return Infeasible(
            f"one row, {_CODED_PER_HOT} times {parts} codes and a piece per field in each book need "
            f"{least + row_bytes + piece_bytes} bytes, got {brief.budget_bytes}"
        )
    most = min(brief.number("unique_share", _UNIQUE_SHARE) * room, room - fewest * shared_bytes)
    num_hot = largest_fitting(lambda count: nbytes(count) <= most, 1, max(2, brief.budget_bytes // 8))
    num_hot = min(num_hot, math.ceil(brief.num_features / _CODED_PER_HOT))
    plan = TierPlan(
        tiers=(Tier(row_format=brief.row_format, dim=brief.dim),),
        capacities=(num_hot,),
        cold=Tier(row_format=brief.row_format, dim=brief.dim // parts),
        num_shared=(room - nbytes(num_hot)) // shared_bytes,
    )
    return Mec(brief, plan, _CODED_PER_HOT * num_hot, code_bytes)
