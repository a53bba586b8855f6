"""A map from feature keys to small integers whose lookup is a handful of gathers, on any device.

Two-choice bucketed hashing: a key lives in one of two buckets of four slots, whichever was emptier when it came. So a
lookup compares exactly eight slots, with no loop whose length depends on the data, and the same two arrays that the
host keeps can be copied to a GPU and searched there with gathers.

    keys    (W, 4) uint64     0: the slot is empty (key 0 is no feature)
    values  (W, 4) int32
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.hashing import Keys, mix64

__all__ = ["ABSENT", "SLOTS", "KeyMap", "claim_place", "find_place"]

ABSENT = -(1 << 31)
SLOTS = 4
_MIN_BUCKETS = 16
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_NO_KEY = np.uint64(0)
Values = npt.NDArray[np.int32]


@njit(nogil=True, cache=True, inline="always")
def _buckets_of(key: np.uint64, mask: np.uint64) -> tuple[np.int64, np.int64]:
    word = mix64(key)
    return np.int64(word & _LOW & mask), np.int64(word >> _HALF & mask)


@njit(nogil=True, cache=True, inline="always")
def find_place(table: Keys, key: np.uint64) -> int:
    """Where the key is (bucket * SLOTS + slot), or -1."""
    first, second = _buckets_of(key, np.uint64(table.shape[0] - 1))
    place = -1
    for slot in range(SLOTS):
        if table[first, slot] == key:
            place = first * SLOTS + slot
        elif table[second, slot] == key:
            place = second * SLOTS + slot
    return place


@njit(nogil=True, cache=True, inline="always")
def claim_place(table: Keys, key: np.uint64) -> int:
    """A free place for a key that is not there, in the emptier of its buckets, or -1 if both are full."""
    first, second = _buckets_of(key, np.uint64(table.shape[0] - 1))
    free_first, free_second = 0, 0
    for slot in range(SLOTS):
        free_first += table[first, slot] == _NO_KEY
        free_second += table[second, slot] == _NO_KEY
    bucket = first if free_first >= free_second else second
    for slot in range(SLOTS):
        if table[bucket, slot] == _NO_KEY:
            return bucket * SLOTS + slot
    return -1


@njit(nogil=True, cache=True)
def _get(table: Keys, values: Values, keys: Keys, found: Values) -> None:
    for i in range(keys.shape[0]):
        place = find_place(table, keys[i])
        found[i] = ABSENT if place < 0 else values[place // SLOTS, place % SLOTS]


@njit(nogil=True, cache=True)
def _put(table: Keys, values: Values, keys: Keys, new: Values) -> tuple[int, int]:
    """Stores the pairs in order; returns how many were stored and how many of them are new keys."""
    added = 0
    for i in range(keys.shape[0]):
        place = find_place(table, keys[i])
        if place < 0:
            place = claim_place(table, keys[i])
            if place < 0:
                return i, added
            added += 1
        table[place // SLOTS, place % SLOTS] = keys[i]
        values[place // SLOTS, place % SLOTS] = new[i]
    return keys.shape[0], added


@njit(nogil=True, cache=True)
def _remove(table: Keys, keys: Keys) -> int:
    removed = 0
    for i in range(keys.shape[0]):
        place = find_place(table, keys[i])
        if place >= 0 and keys[i] != _NO_KEY:
            table[place // SLOTS, place % SLOTS] = _NO_KEY
            removed += 1
    return removed


class KeyMap:
    """A map uint64 -> int32 that holds any keys but 0 and grows by doubling when two buckets are full.

    Args:
        capacity: how many keys are expected; sets the first size (half full at that many).

    Attributes:
        keys: (W, 4) uint64, the slots' keys; W is a power of two.
        values: (W, 4) int32.
    """

    def __init__(self, capacity: int = 0) -> None:
        buckets = _MIN_BUCKETS
        while buckets * SLOTS < 2 * capacity:
            buckets *= 2
        self._allocate(buckets)

    def _allocate(self, buckets: int) -> None:
        self.keys = np.zeros((buckets, SLOTS), np.uint64)
        self.values = np.full((buckets, SLOTS), ABSENT, np.int32)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of the two arrays."""
        return self.keys.nbytes + self.values.nbytes

    def get(self, keys: Keys) -> Values:
        """The values of the keys, `ABSENT` where there is none: (K,) int32. O(K)."""
        keys = np.ascontiguousarray(keys, np.uint64)
        found = np.empty(keys.shape, np.int32)
        _get(self.keys, self.values, keys.reshape(-1), found.reshape(-1))
        found[keys == _NO_KEY] = ABSENT
        return found

    def put(self, keys: Keys, values: Values) -> None:
        """Stores (K,) values under (K,) keys, in order, so that a repeated key keeps its last value.

        Raises:
            ValueError: one of the keys is 0.
        """
        keys = np.ascontiguousarray(keys, np.uint64)
        values = np.ascontiguousarray(values, np.int32)
        if np.any(keys == _NO_KEY):
            raise ValueError("key 0 names no feature and cannot be stored")
        stored, added = _put(self.keys, self.values, keys, values)
        self._size += added
        while stored < len(keys):
            self.grow()
            more, added = _put(self.keys, self.values, keys[stored:], values[stored:])
            stored += more
            self._size += added

    def remove(self, keys: Keys) -> None:
        """Forgets the keys; those that are not there are ignored."""
        self._size -= _remove(self.keys, np.ascontiguousarray(keys, np.uint64))

    def items(self) -> tuple[Keys, Values]:
        """All keys and their values, in ascending order of the keys: two arrays of `len(self)`."""
        used = self.keys != _NO_KEY
        keys, values = self.keys[used], self.values[used]
        order = np.argsort(keys)
        return keys[order], values[order]

    def grow(self) -> None:
        """Doubles the table (again, while two buckets are full)."""
        keys, values = self.items()
        buckets = self.keys.shape[0]
        stored = -1
        while stored < len(keys):
            buckets *= 2
            self._allocate(buckets)
            stored, self._size = _put(self.keys, self.values, keys, values)
