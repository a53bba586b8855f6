"""The sizes of an adaptive embedding's three stores.

    hot        capacity_rows rows, the agent's row numbers           read by hot keys alone
    level_1    each field owns a few rows                            read by every other key: the sum of
    level_2    level_2_rows rows, common to all fields               a row of level 1 and two halves of level 2

A row of level 2 is put together for a key from the left half of one row and the right half of another (R rows make R^2
of them, so that hardly two keys share both halves). A key's rows are seeded hashes, so nothing about shared rows is
ever stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.errors import PlanError

__all__ = ["LEVEL_1_SEED", "LEVEL_2_SEED", "Layout"]

LEVEL_1_SEED = np.uint64(0x4C45564C00000001)  # "LEVL", 1
LEVEL_2_SEED = np.uint64(0x4C45564C00000002)
_MAX_ROWS = (1 << 31) - 1


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The sizes that fix every address.

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
    def level_1_rows(self) -> int:
        """Rows of level 1, of all fields."""
        return self.num_fields * self.level_1_per_field

    @property
    def num_shared_rows(self) -> int:
        """Rows of both levels, and one that stays zero, behind those of level 2."""
        return self.level_1_rows + self.level_2_rows + 1

    @property
    def num_rows(self) -> int:
        """All rows."""
        return self.capacity_rows + self.num_shared_rows
