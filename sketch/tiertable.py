"""TierTable: the hot keys and rows that result from a sequence of changes, with a running digest.

Both ends of the protocol keep one: the agent publishes the digest of its table, a subscriber compares.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.changes import NO_ROW, Changes
from sketch.hashing import Keys, entry_digest
from sketch.keymap import NO_KEY, SLOTS, KeyMap, claim_slot, find_slot

__all__ = ["TierTable"]

_MIN_ROWS = 1024
DIGEST, NUM_HOT, PEAK_HOT = range(3)  # indices into `totals`


@njit(nogil=True, cache=True, inline="always")
def _remove(table, values, owners, index, totals):  # type: ignore[no-untyped-def]
    """Makes the key in a slot of the map cold."""
    bucket, slot = index // SLOTS, index % SLOTS
    row = values[bucket, slot]
    totals[DIGEST] -= entry_digest(table[bucket, slot], np.uint64(row))
    totals[NUM_HOT] -= np.uint64(1)
    owners[row] = NO_KEY
    table[bucket, slot] = NO_KEY


@njit(nogil=True, cache=True)
def _apply(table, values, owners, keys, rows, totals):  # type: ignore[no-untyped-def]
    """Applies changes in order; returns how many: fewer than all if the map must grow first."""
    for i in range(keys.shape[0]):
        key, row = keys[i], rows[i]
        index = find_slot(table, key)
        if index >= 0:
            _remove(table, values, owners, index, totals)
        elif row >= 0:
            index = claim_slot(table, key)
            if index < 0:
                return i
        if row < 0:
            continue
        if owners[row] != NO_KEY:
            _remove(table, values, owners, find_slot(table, owners[row]), totals)
        owners[row] = key
        table[index // SLOTS, index % SLOTS] = key
        values[index // SLOTS, index % SLOTS] = row
        totals[DIGEST] += entry_digest(key, np.uint64(row))
        totals[NUM_HOT] += np.uint64(1)
        totals[PEAK_HOT] = max(totals[PEAK_HOT], totals[NUM_HOT])
    return keys.shape[0]


class TierTable:
    """A map from hot keys to rows; all other keys are cold.

    Changes are applied in order. The last change of a key counts, and a row belongs to the last key that took it; a key
    that loses its row in this way, without a demotion, becomes cold.
    """

    def __init__(self) -> None:
        self._map = KeyMap()
        self._owners = np.zeros(_MIN_ROWS, np.uint64)
        self._totals = np.zeros(3, np.uint64)

    @property
    def digest(self) -> int:
        """The order-free 64-bit digest of the table (docs/protocol.md, "Gaps")."""
        return int(self._totals[DIGEST])

    @property
    def num_hot(self) -> int:
        """The number of hot keys."""
        return int(self._totals[NUM_HOT])

    @property
    def peak_hot(self) -> int:
        """The most hot keys at any moment of the last `apply`."""
        return int(self._totals[PEAK_HOT])

    def apply(self, changes: Changes) -> None:
        """Applies K changes in order. O(K)."""
        self._totals[PEAK_HOT] = self._totals[NUM_HOT]
        top_row = int(changes.row.max(initial=-1))
        if top_row >= len(self._owners):
            grown = np.zeros(max(top_row + 1, 2 * len(self._owners)), np.uint64)
            grown[: len(self._owners)] = self._owners
            self._owners = grown
        done = 0
        while True:
            arrays = changes.key[done:], changes.row[done:]
            done += _apply(self._map.keys, self._map.values, self._owners, *arrays, self._totals)
            if done == len(changes):
                return
            self._map.grow()

    def lookup(self, keys: Keys) -> npt.NDArray[np.int32]:
        """The rows of the keys, -1 for a cold one, in their shape."""
        return np.maximum(self._map.get(keys), NO_ROW)

    def items(self) -> tuple[Keys, npt.NDArray[np.int32]]:
        """The hot keys, ascending, and their rows."""
        return self._map.items()

    def unsorted_items(self) -> tuple[Keys, npt.NDArray[np.int32]]:
        """The hot keys in no order, and their rows: a copy, and nothing else."""
        used = self._map.keys != NO_KEY
        return self._map.keys[used], self._map.values[used]

    def load(self, keys: Keys, rows: npt.NDArray[np.int32]) -> None:
        """Replaces the table by hot keys in any order and their rows."""
        self._map = KeyMap(2 * len(keys))  # a table that moves no key is full at about half of the slots
        self._owners[:] = 0
        self._totals[:] = 0
        self.apply(Changes(keys, rows, np.zeros(len(keys), np.float32)))

    def clear(self) -> None:
        """Makes every key cold."""
        self._map = KeyMap()
        self._owners[:] = 0
        self._totals[:] = 0
