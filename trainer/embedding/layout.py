"""The sizes of the three stores of an adaptive embedding.

    hot        capacity_rows rows, numbered by the agent             a hot key reads one row
    level_1    a few rows per field                                  every other key reads the sum of
    level_2    level_2_rows rows, common to all fields               a row of level 1 and two halves of level 2

The level 2 part of a vector is the left half of one row and the right half of another. R rows make R^2 such pairs, so
two keys rarely share both halves. Seeded hashes map a key to its shared rows, so these need no index.
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
    """The sizes that determine every address.

    Args:
        num_fields: F, categorical fields, 1 to 255.
        capacity_rows: unique rows; the agent that assigns them must have the same capacity.
        level_1_per_field: rows of level 1 per field, at least 1.
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
        """Rows of level 1 in total."""
        return self.num_fields * self.level_1_per_field

    @property
    def num_shared_rows(self) -> int:
        """Rows of both levels, and one zero row after those of level 2."""
        return self.level_1_rows + self.level_2_rows + 1

    @property
    def num_rows(self) -> int:
        """Rows in total."""
        return self.capacity_rows + self.num_shared_rows
