"""A map from feature keys to small integers. A lookup is a fixed number of gathers, on any device.

This is a bucketed cuckoo hash: a key lives in one of two buckets of four slots. It goes to the emptier one; if both are
full, their keys move to their other buckets, along the shortest path to a free slot. So a lookup compares exactly eight
slots, and no loop's length depends on the data; a GPU can search copies of the same two arrays with gathers. The map
fills to nine tenths before it grows by a quarter. Any number of buckets works: a bucket is a multiply and a shift.

    keys    (W, 4) uint64     0: the slot is empty (key 0 names no feature)
    values  (W, 4) int32

A slot is addressed by its flat index, bucket * SLOTS + slot.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.errors import ParameterError
from sketch.hashing import Keys, mix64
from sketch.simd import lowest_bit, match_u64x4, select

__all__ = ["ABSENT", "NO_KEY", "SLOTS", "KeyMap", "claim_slot", "find_slot", "num_buckets_for"]

ABSENT = -(1 << 31)
SLOTS = 4
_BUCKET_BYTES = SLOTS * 8
_MAX_LOAD = 0.9
_GROWTH = 1.25
_MIN_BUCKETS = 16
_MAX_SEARCH = 512  # buckets searched for a free slot; at nine tenths full a dozen is usual
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
NO_KEY = np.uint64(0)
Values = npt.NDArray[np.int32]
Slots = npt.NDArray[np.int64]


def num_buckets_for(num_keys: int) -> int:
    """Buckets of a map that is made for this many keys."""
    return max(_MIN_BUCKETS, math.ceil(num_keys / (_MAX_LOAD * SLOTS)))


@njit(nogil=True, cache=True, inline="always")
def _buckets_of(key: np.uint64, num_buckets: np.uint64) -> tuple[np.int64, np.int64]:
    word = mix64(key)
    return np.int64((word & _LOW) * num_buckets >> _HALF), np.int64((word >> _HALF) * num_buckets >> _HALF)


@njit(nogil=True, cache=True, inline="always")
def find_slot(table: Keys, key: np.uint64) -> int:
    """The key's slot (flat index), or -1. The table must be contiguous."""
    first, second = _buckets_of(key, np.uint64(table.shape[0]))
    start = table.ctypes.data
    hits: int = match_u64x4(start + first * _BUCKET_BYTES, key)
    others: int = match_u64x4(start + second * _BUCKET_BYTES, key)
    bucket = select(hits, first, second)
    index = bucket * SLOTS + lowest_bit(select(hits, hits, others | 16))
    return select(hits | others, index, -1)


@njit(nogil=True, cache=True, inline="always")
def claim_slot(table: Keys, key: np.uint64) -> int:
    """A free slot (flat index) for a new key, in the emptier of its buckets, or -1 if both are full."""
    first, second = _buckets_of(key, np.uint64(table.shape[0]))
    free_first, free_second = 0, 0
    for slot in range(SLOTS):
        free_first += table[first, slot] == NO_KEY
        free_second += table[second, slot] == NO_KEY
    bucket = first if free_first >= free_second else second
    for slot in range(SLOTS):
        if table[bucket, slot] == NO_KEY:
            return bucket * SLOTS + slot
    return -1


@njit(nogil=True, cache=True)
def _make_room(table: Keys, values: Values, key: np.uint64, path: Slots, touched: Slots, count: int) -> tuple[int, int]:
    """Frees a slot in one of the key's full buckets by moving keys; returns it (-1: none found) and the new count.

    The search is breadth first. `path` (_MAX_SEARCH, 3) holds buckets, the entry from which each was reached, and the
    slot whose key leads there. A shortest path visits no bucket twice, so moves from its end never overwrite a key.
    """
    num_buckets = np.uint64(table.shape[0])
    path[0, 0], path[1, 0] = _buckets_of(key, num_buckets)
    path[0, 1], path[1, 1] = -1, -1
    head, tail = 0, 2
    while head < tail and tail + SLOTS <= path.shape[0]:
        bucket = path[head, 0]
        for slot in range(SLOTS):
            first, second = _buckets_of(table[bucket, slot], num_buckets)
            other = second if first == bucket else first
            path[tail, 0], path[tail, 1], path[tail, 2] = other, head, slot
            for free in range(SLOTS):
                if table[other, free] == NO_KEY:
                    entry, target = tail, free
                    while path[entry, 1] >= 0:
                        source, moved = path[path[entry, 1], 0], path[entry, 2]
                        table[path[entry, 0], target] = table[source, moved]
                        values[path[entry, 0], target] = values[source, moved]
                        if count < touched.shape[0]:
                            touched[count] = path[entry, 0] * SLOTS + target
                        count += 1
                        entry, target = path[entry, 1], moved
                    return path[entry, 0] * SLOTS + target, count
            tail += 1
        head += 1
    return -1, count


@njit(nogil=True, cache=True)
def _get(table: Keys, values: Values, keys: Keys, found: Values) -> None:
    for i in range(keys.shape[0]):
        index = find_slot(table, keys[i])
        found[i] = ABSENT if index < 0 else values[index // SLOTS, index % SLOTS]


@njit(nogil=True, cache=True)
def _put(table: Keys, values: Values, keys: Keys, new: Values, path: Slots, touched: Slots) -> tuple[int, int, int]:
    """Stores the pairs in order; returns how many were stored, how many of them are new, how many slots were written.

    `touched` receives the written slots, as many as fit.
    """
    added, count = 0, 0
    for i in range(keys.shape[0]):
        index = find_slot(table, keys[i])
        if index < 0:
            index = claim_slot(table, keys[i])
            if index < 0:
                index, count = _make_room(table, values, keys[i], path, touched, count)
            if index < 0:
                return i, added, count
            added += 1
        table[index // SLOTS, index % SLOTS] = keys[i]
        values[index // SLOTS, index % SLOTS] = new[i]
        if count < touched.shape[0]:
            touched[count] = index
        count += 1
    return keys.shape[0], added, count


@njit(nogil=True, cache=True)
def _remove(table: Keys, keys: Keys, touched: Slots) -> int:
    removed = 0
    for i in range(keys.shape[0]):
        index = find_slot(table, keys[i])
        if index >= 0 and keys[i] != NO_KEY:
            table[index // SLOTS, index % SLOTS] = NO_KEY
            touched[removed] = index
            removed += 1
    return removed


class KeyMap:
    """A map uint64 -> int32 of any keys but 0. It grows by a quarter when no slot can be freed for a key.

    Args:
        capacity: how many keys are expected; the initial size is nine tenths full at that many.

    Attributes:
        keys: (W, 4) uint64, 0 where the slot is empty.
        values: (W, 4) int32.
    """

    def __init__(self, capacity: int = 0) -> None:
        self._allocate(num_buckets_for(capacity))

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
        """The values of the keys, `ABSENT` for missing ones: (K,) int32. O(K)."""
        keys = np.ascontiguousarray(keys, np.uint64)
        found = np.empty(keys.shape, np.int32)
        _get(self.keys, self.values, keys.reshape(-1), found.reshape(-1))
        found[keys == NO_KEY] = ABSENT
        return found

    def put(self, keys: Keys, values: Values) -> Slots | None:
        """Stores (K,) values under (K,) keys, in order, so that a repeated key keeps its last value.

        Returns:
            The written slots (flat indices), for updates of a copy; None if the map grew or most of it was written.

        Raises:
            ParameterError: one of the keys is 0.
        """
        keys = np.ascontiguousarray(keys, np.uint64)
        values = np.ascontiguousarray(values, np.int32)
        if np.any(keys == NO_KEY):
            raise ParameterError("key 0 names no feature and cannot be stored")
        path, touched = np.empty((_MAX_SEARCH, 3), np.int64), np.empty(4 * len(keys) + 64, np.int64)
        stored, added, count = _put(self.keys, self.values, keys, values, path, touched)
        self._size += added
        is_listed = stored == len(keys) and count <= len(touched)
        while stored < len(keys):
            self.grow()
            more, added, _ = _put(self.keys, self.values, keys[stored:], values[stored:], path, touched[:0])
            stored += more
            self._size += added
        return touched[:count] if is_listed else None

    def remove(self, keys: Keys) -> Slots:
        """Removes the keys, ignores missing ones, and returns the freed slots (flat indices)."""
        keys = np.ascontiguousarray(keys, np.uint64)
        touched = np.empty(len(keys), np.int64)
        removed = _remove(self.keys, keys, touched)
        self._size -= removed
        return touched[:removed]

    def items(self) -> tuple[Keys, Values]:
        """All keys and their values, in ascending order of the keys: two arrays of `len(self)`."""
        used = self.keys != NO_KEY
        keys, values = self.keys[used], self.values[used]
        order = np.argsort(keys)
        return keys[order], values[order]

    def grow(self) -> None:
        """Makes the table a quarter larger, repeatedly until every key fits."""
        keys, values = self.items()
        path, touched = np.empty((_MAX_SEARCH, 3), np.int64), np.empty(0, np.int64)
        buckets = self.keys.shape[0]
        stored = -1
        while stored < len(keys):
            buckets = math.ceil(buckets * _GROWTH)
            self._allocate(buckets)
            stored, self._size, _ = _put(self.keys, self.values, keys, values, path, touched)
