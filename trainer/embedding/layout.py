"""The numbers of rows of an adaptive embedding, and the seeds of the hashes that need no index.

unique     capacity_rows rows, numbered by the agent             a hot key reads one row
level 1    a few rows per field                                  every other key reads the sum of a row of level 1
level 2    level_2_rows rows, common to all fields               and four quarters of rows of level 2
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.errors import PlanError

__all__ = ["GATE_BYTES", "LEVEL_1_SEED", "LEVEL_2_SEEDS", "Layout"]

LEVEL_1_SEED = np.uint64(0x4C45564C00000001)  # "LEVL", 1
LEVEL_2_SEEDS = (np.uint64(0x4C45564C00000002), np.uint64(0x4C45564C00000003))  # each for two of the quarters
_MAX_ROWS = (1 << 31) - 1
GATE_BYTES = 24  # per field: a float32 and its Adagrad sum for each of three parts


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
        """Rows of both levels."""
        return self.level_1_rows + self.level_2_rows

    @property
    def num_rows(self) -> int:
        """Rows in total."""
        return self.capacity_rows + self.num_shared_rows
