"""`scma`: one shared memory, whose blocks features share as often as they occur together (SCMA / LMA, Rice 2021).

    tracked    M blocks at hash(minhash m of the rows that the feature occurs in), once it has occurred often enough
    cold       M blocks at hash(feature, m), as `robe` has them

Two features share a block with the probability that a row that contains one of them contains both (the Jaccard index
of their rows), and 1 / blocks besides. Kept of the paper: memory shared by minhashes of co-occurrence, and plain
hashes below a support of 4 rows. Not kept: the pass over a sample before training, and the minhashes of the whole
vocabulary, which take more than the table itself: only tracked features have signatures, M words each. They are
collected over windows of 64 batches, of the same rows for all features; at the end of a window, addresses become fixed.
A feature whose addresses become fixed changes its vector.
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
from trainer.evaluate.methods.tiered import Tier, TieredRows, TierPlan

__all__ = ["Scma", "build"]

_PARTS, _UNIQUE_SHARE = 4, 0.5
_WINDOW_STEPS, _SUPPORT = 64, 4
_SIGNATURE_BYTES, _COUNT_BYTES = 4, 2  # a minhash, and the rows that it is of
_PLACED = np.iinfo(np.uint16).max  # as the number of rows: the addresses are fixed
_EMPTY = np.iinfo(np.uint32).max
_HALF = np.uint64(32)

Ids = npt.NDArray[np.int64]


class Scma(TieredRows):
    """The memory, and the signatures of tracked features.

    Knobs: `parts` (M), `unique_share` (of the bytes, for signatures and their tracker) and `row_format` (of a block).

    Attributes:
        signatures: (tracked, M) uint32, the smallest hashes of the rows that each feature occurs in.
        support: (tracked,) uint16, the number of these rows.
        num_blocks: of the memory.
    """

    def __init__(self, brief: Brief, plan: TierPlan, num_tracked: int, parts: int) -> None:
        super().__init__(brief, plan, num_coded=num_tracked, parts=parts)
        self.num_blocks = self._rows[0].padding
        self.signatures = np.full((num_tracked, parts), _EMPTY, np.uint32)
        self.support = np.zeros(num_tracked, np.uint16)
        numbers = np.arange(3 * parts).reshape(3, parts) + 3 * parts * brief.seed + 1
        salts = mix64_array(numbers.astype(np.uint64) * GOLDEN_RATIO)
        self._of_ids, self._of_signatures, self._of_rows = salts
        self._num_steps = self._num_rows = 0
        self._num_fields = 1

    def locate(self, ids: Ids, tier: Ids, row: Ids) -> tuple[Ids, Ids]:
        """As `TieredRows.locate`: blocks (N, M)."""
        words = ids.astype(np.uint64)[:, None] ^ self._of_ids
        tracked = np.flatnonzero(tier != COLD)
        placed = tracked[self.support[row[tracked]] == _PLACED]
        words[placed] = self.signatures[row[placed]] ^ self._of_signatures
        blocks = (mix64_array(words) >> _HALF) * np.uint64(self.num_blocks) >> _HALF
        return np.zeros(len(ids), np.int64), blocks.astype(np.int64)

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        self._num_fields = words.shape[-1]
        return super().forward(words)

    def demote(self, moves: Moves, vectors: Tensor) -> None:  # noqa: ARG002
        """As `TieredRows.demote`: what becomes tracked begins without a signature."""
        is_new = (moves.tier == COLD) & (moves.to_tier != COLD)
        self.signatures[moves.to_row[is_new]], self.support[moves.to_row[is_new]] = _EMPTY, 0

    @torch.no_grad()
    def learn(self) -> None:
        """As `Method.learn`; then the rows of the batch go into signatures."""
        ids = self._ids
        super().learn()
        self.sign(ids)
        self._num_steps += 1
        if self._num_steps % _WINDOW_STEPS == 0:
            self.place()

    def sign(self, ids: Ids) -> None:
        """Adds rows, whose features (B F,) these are, to the signatures of tracked features that are not placed."""
        rows = self._num_rows + np.arange(len(ids)) // self._num_fields
        self._num_rows += len(ids) // self._num_fields
        tier, slots = self.ranks.find(ids)
        open_ = np.flatnonzero((tier != COLD) & (self.support[slots] != _PLACED))
        hashes = (mix64_array(rows[open_].astype(np.uint64)[:, None] ^ self._of_rows) >> _HALF).astype(np.uint32)
        np.minimum.at(self.signatures, slots[open_], hashes)
        counts = self.support + np.bincount(slots[open_], minlength=len(self.support))
        self.support[:] = np.where(self.support == _PLACED, _PLACED, np.minimum(counts, _PLACED - 1))

    def place(self) -> None:
        """Fixes the addresses of features with enough rows; the others begin again."""
        is_placed = self.support >= _SUPPORT
        self.support[:] = np.where(is_placed, _PLACED, 0)
        self.signatures[~is_placed] = _EMPTY

    @property
    def extra_bytes(self) -> int:
        """As `RowTables.extra_bytes`, with signatures and counts."""
        return super().extra_bytes + self.signatures.nbytes + self.support.nbytes


def build(brief: Brief) -> Scma | Infeasible:
    """Signatures for `unique_share` of the bytes, the memory for the rest, a vector per field at least."""
    parts, fewest = int(brief.number("parts", _PARTS)), len(brief.field_sizes)
    if brief.dim % parts:
        return Infeasible(f"{parts} parts do not divide dimension {brief.dim}")
    width = brief.dim // parts
    block_bytes = brief.row_bytes(brief.row_format, width)
    room = brief.budget_bytes - block_bytes

    def nbytes(num_tracked: int) -> int:
        return num_tracked * (parts * _SIGNATURE_BYTES + _COUNT_BYTES) + ranks_bytes(num_tracked)

    least = nbytes(1) + fewest * parts * block_bytes
    if least > room:
        return Infeasible(
            f"one signature and {parts} blocks per field need {least + block_bytes} bytes, got {brief.budget_bytes}"
        )
    most = min(brief.number("unique_share", _UNIQUE_SHARE) * room, room - fewest * parts * block_bytes)
    num_tracked = largest_fitting(lambda count: nbytes(count) <= most, 1, max(2, brief.budget_bytes // 8))
    num_tracked = min(num_tracked, brief.num_features)
    plan = TierPlan(
        tiers=(),
        capacities=(),
        cold=Tier(row_format=brief.row_format, dim=width),
        num_shared=(room - nbytes(num_tracked)) // (parts * block_bytes),
    )
    return Scma(brief, plan, num_tracked, parts)
