"""TierTable: the tiers and rows that result from a sequence of changes, with a running digest.

Both ends of the protocol keep one: the agent publishes the digest of its table, a subscriber compares.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.changes import COLD, HOT, NO_ROW, WARM, Changes
from sketch.hashing import Keys, entry_digest
from sketch.keymap import ABSENT, NO_KEY, SLOTS, KeyMap, claim_slot, find_slot

__all__ = ["TierTable"]

_WARM_VALUE = -1
_NO_ROW_BITS = np.uint64(0xFFFFFFFF)
_MIN_ROWS = 1024
DIGEST, NUM_HOT, NUM_WARM, PEAK_HOT = range(4)  # indices into `totals`


@njit(nogil=True, cache=True, inline="always")
def _count(totals, key, value, one):  # type: ignore[no-untyped-def]
    """Adds (`one` = 1) or removes (`one` = 2^64 - 1) an entry."""
    if value >= 0:
        totals[DIGEST] += one * entry_digest(key, np.uint64(HOT), np.uint64(value))
        totals[NUM_HOT] += one
    else:
        totals[DIGEST] += one * entry_digest(key, np.uint64(WARM), _NO_ROW_BITS)
        totals[NUM_WARM] += one


@njit(nogil=True, cache=True)
def _apply(table, values, owners, keys, tiers, rows, totals):  # type: ignore[no-untyped-def]
    """Applies changes in order; returns how many: fewer than all if the map must grow first."""
    one, minus_one = np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)
    for i in range(keys.shape[0]):
        key, row = keys[i], rows[i]
        index = find_slot(table, key)
        if index < 0 and tiers[i] != COLD:
            index = claim_slot(table, key)
            if index < 0:
                return i
        elif index >= 0:
            old = values[index // SLOTS, index % SLOTS]
            _count(totals, key, old, minus_one)
            if old >= 0:
                owners[old] = NO_KEY
            table[index // SLOTS, index % SLOTS] = NO_KEY
        if tiers[i] == COLD:
            continue
        if tiers[i] == HOT:
            if owners[row] != NO_KEY:
                owner_index = find_slot(table, owners[row])
                _count(totals, owners[row], row, minus_one)
                table[owner_index // SLOTS, owner_index % SLOTS] = NO_KEY
            owners[row] = key
        value = row if tiers[i] == HOT else _WARM_VALUE
        table[index // SLOTS, index % SLOTS] = key
        values[index // SLOTS, index % SLOTS] = value
        _count(totals, key, value, one)
        totals[PEAK_HOT] = max(totals[PEAK_HOT], totals[NUM_HOT])
    return keys.shape[0]


class TierTable:
    """A map from keys to tiers and rows.

    Changes are applied in order. The last change of a key counts, and a row belongs to the last key that took it; a key
    that loses its row in this way, without a demotion, becomes cold.
    """

    def __init__(self) -> None:
        self._map = KeyMap()
        self._owners = np.zeros(_MIN_ROWS, np.uint64)
        self._totals = np.zeros(4, np.uint64)

    @property
    def digest(self) -> int:
        """The order-free 64-bit digest of the table (docs/protocol.md, "Gaps")."""
        return int(self._totals[DIGEST])

    @property
    def num_hot(self) -> int:
        """The number of hot keys."""
        return int(self._totals[NUM_HOT])

    @property
    def num_warm(self) -> int:
        """The number of warm keys."""
        return int(self._totals[NUM_WARM])

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
            arrays = changes.key[done:], changes.tier[done:], changes.row[done:]
            done += _apply(self._map.keys, self._map.values, self._owners, *arrays, self._totals)
            if done == len(changes):
                return
            self._map.grow()

    def lookup(self, keys: Keys) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Tiers (0 cold, 1 warm, 2 hot; uint8) and rows (-1 unless hot; int32) of the keys, in their shape."""
        values = self._map.get(keys)
        tiers = np.where(values >= 0, HOT, np.where(values == ABSENT, COLD, WARM)).astype(np.uint8)
        return tiers, np.where(values >= 0, values, NO_ROW).astype(np.int32)

    def items(self) -> tuple[Keys, npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """All hot and warm keys, ascending, with their tiers and rows."""
        keys, _ = self._map.items()
        return keys, *self.lookup(keys)

    def unsorted_items(self) -> tuple[Keys, npt.NDArray[np.int32]]:
        """All hot and warm keys in no order, and the row of each (-1 for a warm key): a copy, and nothing else."""
        used = self._map.keys != NO_KEY
        return self._map.keys[used], self._map.values[used]

    def load(self, keys: Keys, rows: npt.NDArray[np.int32]) -> None:
        """Replaces the table by what `unsorted_items` gave, in any order."""
        self._map = KeyMap(len(keys))
        self._owners[:] = 0
        self._totals[:] = 0
        tiers = np.where(rows >= 0, HOT, WARM).astype(np.uint8)
        self.apply(Changes(keys, tiers, rows, np.zeros(len(keys), np.float32)))

    def clear(self) -> None:
        """Makes every key cold."""
        self._map = KeyMap()
        self._owners[:] = 0
        self._totals[:] = 0
