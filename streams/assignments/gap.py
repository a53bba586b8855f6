"""Which changes still count in a gap: a jump in `seq` whose missing changes later records supersede.

Two agents that had one shard for a moment may leave records twice in the log, always with the same bytes. Compaction
may then remove the first of two copies and leave later changes, which have only one copy, in front of the second. So
inside a gap an older `seq` is not stale by itself: it is news if nothing newer was seen of its key and of its row.
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
    """The newest `seq` that was applied of every key and every row since the gap began.

    About 22 bytes a key and 8 a row, until the gap is closed.

    Args:
        floor: up to this `seq` every change was applied before the gap.
    """

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self._slots = KeyMap()  # key -> index of `_seqs`
        self._seqs = np.empty(0, np.int64)
        self._row_seqs = np.empty(0, np.int64)

    def is_news(self, changes: Columns) -> npt.NDArray[np.bool_]:
        """(K,) whether nothing newer was applied of each change's key, nor of its row."""
        slots = self._slots.get(changes.key)
        known = slots != ABSENT
        newest = np.full(len(changes), self.floor, np.int64)
        newest[known] = self._seqs[slots[known]]
        has_row = (changes.row >= 0) & (changes.row < len(self._row_seqs))
        newest[has_row] = np.maximum(newest[has_row], self._row_seqs[changes.row[has_row]])
        return changes.seq > newest

    def note(self, changes: Columns) -> None:
        """Takes in applied changes, in order: of one key, and of one row, their `seq` ascends."""
        if not len(changes):
            return
        fresh = np.unique(changes.key[self._slots.get(changes.key) == ABSENT])
        first = len(self._slots)
        self._slots.put(fresh, np.arange(first, first + len(fresh), dtype=np.int32))
        self._seqs = _grown(self._seqs, len(self._slots), self.floor)
        self._seqs[self._slots.get(changes.key)] = changes.seq  # of a repeated index numpy keeps the last value
        has_row = changes.row >= 0
        self._row_seqs = _grown(self._row_seqs, int(changes.row.max()) + 1, self.floor)
        self._row_seqs[changes.row[has_row]] = changes.seq[has_row]

    def count(self, changes: Columns, counts: npt.NDArray[np.bool_]) -> None:
        """Marks the late changes that count, and notes all that do.

        Args:
            changes: (K,) of one shard and epoch, in the order of the log.
            counts: (K,) whether a change counts anyhow, as it is its shard's newest; late ones are set here.
        """
        done = 0
        # What is known of a key only grows, so what is no news now will be none when its turn comes.
        for i in np.flatnonzero(~counts & self.is_news(changes)).tolist():
            before = slice(done, i)
            self.note(changes[before][counts[before]])
            counts[i] = bool(self.is_news(changes[i : i + 1])[0])
            done = i
        self.note(changes[done:][counts[done:]])

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `load` needs: keys ascending with their `seq`, and a `seq` for each row."""
        keys, slots = self._slots.items()
        top_row = int(np.max(np.flatnonzero(self._row_seqs != self.floor), initial=-1))
        return {"gap_keys": keys, "gap_seqs": self._seqs[slots], "gap_row_seqs": self._row_seqs[: top_row + 1].copy()}

    @classmethod
    def load(cls, floor: int, arrays: Mapping[str, npt.NDArray[Any]]) -> OpenGap:
        """The gap that `to_arrays` described."""
        gap = cls(floor)
        keys: Keys = arrays["gap_keys"].view(np.uint64)
        gap._slots.put(keys, np.arange(len(keys), dtype=np.int32))
        gap._seqs, gap._row_seqs = arrays["gap_seqs"].copy(), arrays["gap_row_seqs"].copy()
        return gap


def _grown(seqs: Seqs, size: int, floor: int) -> Seqs:
    """The array with room for `size` entries, new ones at the floor."""
    if size <= len(seqs):
        return seqs
    grown = np.full(max(size, int(_GROWTH * len(seqs))), floor, np.int64)
    grown[: len(seqs)] = seqs
    return grown
