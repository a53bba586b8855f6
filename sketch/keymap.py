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

__all__ = ["ABSENT", "SLOTS", "KeyMap"]

ABSENT = -(1 << 31)
SLOTS = 4
_MIN_BUCKETS = 16
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_NO_KEY = np.uint64(0)
Values = npt.NDArray[np.int32]


@njit(nogil=True, inline="always")
def _buckets_of(key: np.uint64, mask: np.uint64) -> tuple[np.int64, np.int64]:
    word = mix64(key)
    return np.int64(word & _LOW & mask), np.int64(word >> _HALF & mask)


@njit(nogil=True)
def _get(table: Keys, values: Values, keys: Keys, found: Values) -> None:
    mask = np.uint64(table.shape[0] - 1)
    for i in range(keys.shape[0]):
        first, second = _buckets_of(keys[i], mask)
        found[i] = ABSENT
        for slot in range(SLOTS):
            if table[first, slot] == keys[i]:
                found[i] = values[first, slot]
            elif table[second, slot] == keys[i]:
                found[i] = values[second, slot]


@njit(nogil=True)
def _put(table: Keys, values: Values, keys: Keys, new: Values) -> tuple[int, int]:
    """Stores the pairs in order; returns how many were stored and how many of them are new keys."""
    mask = np.uint64(table.shape[0] - 1)
    added = 0
    for i in range(keys.shape[0]):
        first, second = _buckets_of(keys[i], mask)
        bucket, place = -1, -1
        free_first, free_second = 0, 0
        for slot in range(SLOTS):
            if table[first, slot] == keys[i]:
                bucket, place = first, slot
            elif table[second, slot] == keys[i]:
                bucket, place = second, slot
            free_first += table[first, slot] == _NO_KEY
            free_second += table[second, slot] == _NO_KEY
        if place < 0:
            bucket = first if free_first >= free_second else second
            if max(free_first, free_second) == 0:
                return i, added
            for slot in range(SLOTS - 1, -1, -1):
                if table[bucket, slot] == _NO_KEY:
                    place = slot
            added += 1
        table[bucket, place] = keys[i]
        values[bucket, place] = new[i]
    return keys.shape[0], added


@njit(nogil=True)
def _remove(table: Keys, keys: Keys) -> int:
    mask = np.uint64(table.shape[0] - 1)
    removed = 0
    for i in range(keys.shape[0]):
        first, second = _buckets_of(keys[i], mask)
        for bucket in (first, second):
            for slot in range(SLOTS):
                if keys[i] != _NO_KEY and table[bucket, slot] == keys[i]:
                    table[bucket, slot] = _NO_KEY
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
            self._grow()
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

    def _grow(self) -> None:
        keys, values = self.items()
        buckets = self.keys.shape[0]
        stored = -1
        while stored < len(keys):
            buckets *= 2
            self._allocate(buckets)
            stored, self._size = _put(self.keys, self.values, keys, values)
