"""`robe`: every vector consists of blocks of one shared array (Desai et al., MLSys'22)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from sketch.hashing import GOLDEN_RATIO, mix64_array
from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.row_tables import Rows, RowTables

__all__ = ["Robe", "build"]

_HALF = np.uint64(32)


class Robe(RowTables):
    """D / Z blocks of Z values each, at hashed positions in one array for all fields.

    Differs from the publication in two ways, so that the same row-wise kernels can train it: blocks start at multiples
    of Z, and a block has one optimizer word.

    Args:
        brief: with the knobs `block` (Z, a divisor of D) and `row_format` (of a block).
        num_blocks: blocks of the array.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()
    reads_lists: ClassVar[bool] = True

    def __init__(self, brief: Brief, num_blocks: int) -> None:
        block = int(brief.number("block", 8))
        super().__init__(Rows(num_blocks, brief, dim=block, row_format=brief.row_format))
        parts = brief.dim // block
        seeds = np.array(
            [(brief.seed * parts + part + 1) * int(GOLDEN_RATIO) % (1 << 64) for part in range(parts)], np.uint64
        )
        self._salts = mix64_array(seeds)  # (D / Z,)
        self._num_blocks = np.uint64(num_blocks)

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        hashed = mix64_array(words.numpy().astype(np.uint64)[..., None] ^ self._salts) >> _HALF  # (B, F, D / Z)
        blocks: Tensor = self.rows((hashed * self._num_blocks >> _HALF).astype(np.int64))  # (B, F, D / Z, Z)
        return blocks.flatten(-2)


def build(brief: Brief) -> Robe | Infeasible:
    """The most blocks that fit, at least those of one vector."""
    block = int(brief.number("block", 8))
    if brief.dim % block:
        return Infeasible(f"block {block} does not divide dimension {brief.dim}")
    block_bytes = brief.row_bytes(brief.row_format, dim=block)
    num_blocks = brief.budget_bytes // block_bytes - 1
    if num_blocks < brief.dim // block:
        return Infeasible(f"one vector needs {(brief.dim // block + 1) * block_bytes} bytes, got {brief.budget_bytes}")
    return Robe(brief, num_blocks)
