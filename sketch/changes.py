"""The changes of a hot set's update: parallel arrays, in order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sketch.hashing import Keys

__all__ = ["NO_ROW", "Changes"]

NO_ROW = -1  # of a cold key


@dataclass(frozen=True)
class Changes:
    """K changes. A demotion that frees a row precedes the promotion that takes it.

    Attributes:
        key: (K,) uint64 feature keys.
        row: (K,) int32, the unique row of a key that becomes hot, -1 for one that becomes cold.
        score: (K,) float32, the importance at the time of the change.
    """

    key: Keys
    row: npt.NDArray[np.int32]
    score: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.key)

    @property
    def is_hot(self) -> npt.NDArray[np.bool_]:
        """(K,) whether the key becomes hot."""
        return self.row >= 0

    @property
    def num_promotions(self) -> int:
        """The number of changes to hot."""
        return int(np.count_nonzero(self.is_hot))

    def first(self, count: int) -> Changes:
        """The first `count` changes."""
        return Changes(self.key[:count], self.row[:count], self.score[:count])

    @classmethod
    def empty(cls) -> Changes:
        """No changes."""
        return cls(np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.float32))

    @classmethod
    def concatenate(cls, parts: list[Changes]) -> Changes:
        """The changes of consecutive updates."""
        if not parts:
            return cls.empty()
        columns = ("key", "row", "score")
        return cls(*(np.concatenate([getattr(part, column) for part in parts]) for column in columns))
