"""Which changes still count in a gap: a jump in `seq` whose missing changes later records supersede.

Two agents that owned one shard for a moment may leave two copies of a record in the log, always with the same bytes.
Compaction may then remove the first copy and keep later changes, which have one copy only, before the second. So inside
a gap an older `seq` does not make a change stale: it counts if nothing newer was applied of its key or row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sketch.keymap import ABSENT, KeyMap
from streams.assignments.columns import Columns
from streams.keys import Keys

__all__ = ["OpenGap"]

Seqs = npt.NDArray[np.int64]
_GROWTH = 1.5


class OpenGap:
    """The newest `seq` applied since the gap began, for every key and every row.

    Memory: about 22 bytes a key and 8 a row, until the gap is closed.

    Args:
        floor: every change up to this `seq` was applied before the gap.
    """

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self._slots = KeyMap()  # key -> index of `_seqs`
        self._seqs = np.empty(0, np.int64)
        self._row_seqs = np.empty(0, np.int64)

    def is_news(self, changes: Columns) -> npt.NDArray[np.bool_]:
        """(K,) whether each change is newer than all that was applied of its key and of its row."""
        slots = self._slots.get(changes.key)
        known = slots != ABSENT
        newest = np.full(len(changes), self.floor, np.int64)
        newest[known] = self._seqs[slots[known]]
        has_row = (changes.row >= 0) & (changes.row < len(self._row_seqs))
        newest[has_row] = np.maximum(newest[has_row], self._row_seqs[changes.row[has_row]])
        return changes.seq > newest

    def note(self, changes: Columns) -> None:
        """Records applied changes, whose `seq` must ascend for each key and for each row."""
        if not len(changes):
            return
        fresh = np.unique(changes.key[self._slots.get(changes.key) == ABSENT])
        first = len(self._slots)
        self._slots.put(fresh, np.arange(first, first + len(fresh), dtype=np.int32))
        self._seqs = _grown(self._seqs, len(self._slots), self.floor)
        self._seqs[self._slots.get(changes.key)] = changes.seq  # numpy keeps the last value of a repeated index
        has_row = changes.row >= 0
        self._row_seqs = _grown(self._row_seqs, int(changes.row.max()) + 1, self.floor)
        self._row_seqs[changes.row[has_row]] = changes.seq[has_row]

    def count(self, changes: Columns, counts: npt.NDArray[np.bool_]) -> None:
        """Marks the late changes that count, and records all changes that count.

        Args:
            changes: (K,) of one shard and epoch, in the order of the log.
            counts: (K,) whether a change is the newest of its shard; late changes that count are set to True.
        """
        done = 0
        # The newest `seq` of a key only grows, so a change that is not news now cannot become news later.
        for i in np.flatnonzero(~counts & self.is_news(changes)).tolist():
            before = slice(done, i)
            self.note(changes[before][counts[before]])
            counts[i] = bool(self.is_news(changes[i : i + 1])[0])
            done = i
        self.note(changes[done:][counts[done:]])

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays that `load` needs: ascending keys, their `seq`, and a `seq` for each row."""
        keys, slots = self._slots.items()
        top_row = int(np.max(np.flatnonzero(self._row_seqs != self.floor), initial=-1))
        return {"gap_keys": keys, "gap_seqs": self._seqs[slots], "gap_row_seqs": self._row_seqs[: top_row + 1].copy()}

    @classmethod
    def load(cls, floor: int, arrays: Mapping[str, npt.NDArray[Any]]) -> OpenGap:
        """Restores the gap that `to_arrays` saved."""
        gap = cls(floor)
        keys: Keys = arrays["gap_keys"].view(np.uint64)
        gap._slots.put(keys, np.arange(len(keys), dtype=np.int32))
        gap._seqs, gap._row_seqs = arrays["gap_seqs"].copy(), arrays["gap_row_seqs"].copy()
        return gap


def _grown(seqs: Seqs, size: int, floor: int) -> Seqs:
    """The array with room for `size` entries; new entries are set to the floor."""
    if size <= len(seqs):
        return seqs
    grown = np.full(max(size, int(_GROWTH * len(seqs))), floor, np.int64)
    grown[: len(seqs)] = seqs
    return grown
