"""Where each row of an embedding stands in its one physical table.

    0            capacity_rows        level_2_start       padding_row
    +------------+--------------------+-------------------+---+
    | unique     | level 1            | level 2           | 0 |
    +------------+--------------------+-------------------+---+
     the agent's  field 1 | 2 | ... F  common to all       always zero: what a hot key reads of level 2
     row numbers

A hot key reads its unique row. Every other key reads the sum of two: a row of level 1, of which each field owns a few,
and a row that level 2 is put together for it from the left half of one row and the right half of another (R rows make
R^2 of them, so that hardly two keys share both halves). A key's places are seeded hashes, so nothing about shared rows
is ever stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.errors import PlanError

__all__ = ["LEVEL_1_SEED", "LEVEL_2_SEED", "Layout", "left_half"]

LEVEL_1_SEED = np.uint64(0x4C45564C00000001)  # "LEVL", 1
LEVEL_2_SEED = np.uint64(0x4C45564C00000002)
_MAX_ROWS = (1 << 31) - 1


def left_half(dim: int) -> int:
    """How many of a row's D numbers are its left half."""
    return dim // 2


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The sizes that fix every row number.

    Args:
        num_fields: F, categorical fields, 1 to 255.
        capacity_rows: unique rows; the agent that names them must have the same capacity.
        level_1_per_field: rows of level 1 that each field owns, at least 1.
        level_2_rows: rows of level 2, common to all fields; 0 for none.
    """

    num_fields: int
    capacity_rows: int
    level_1_per_field: int
    level_2_rows: int

    def __post_init__(self) -> None:
        if not 1 <= self.num_fields <= 255:
            raise PlanError(f"num_fields: got {self.num_fields}, expected 1 to 255")
        if self.capacity_rows < 0 or self.level_2_rows < 0:
            raise PlanError("capacity_rows and level_2_rows: expected 0 or more")
        if self.level_1_per_field < 1:
            raise PlanError(f"level_1_per_field: got {self.level_1_per_field}, expected at least 1")
        if self.num_rows > _MAX_ROWS:
            raise PlanError(f"{self.num_rows} rows, expected at most {_MAX_ROWS}")

    @property
    def level_2_start(self) -> int:
        """The first row of level 2."""
        return self.capacity_rows + self.num_fields * self.level_1_per_field

    @property
    def padding_row(self) -> int:
        """The row that is always zero."""
        return self.level_2_start + self.level_2_rows

    @property
    def num_rows(self) -> int:
        """All physical rows, the padding row included."""
        return self.padding_row + 1
