"""A map from feature keys to small integers whose lookup is a handful of gathers, on any device.

Two-choice bucketed hashing with moves (a bucketed cuckoo hash): a key lives in one of two buckets of four slots. It
goes to the emptier of them; if both are full, keys that stand there move to their other buckets, along the shortest
path to a free slot. So a lookup compares exactly eight slots, with no loop whose length depends on the data, the same
two arrays that the host keeps can be copied to a GPU and searched there with gathers, and the map fills to nine tenths
before it grows, by a quarter (any number of buckets: a bucket is a multiply and a shift).

    keys    (W, 4) uint64     0: the slot is empty (key 0 is no feature)
    values  (W, 4) int32
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.core.extending import intrinsic

from sketch.hashing import Keys, mix64
from sketch.simd import lowest_bit, select

__all__ = ["ABSENT", "SLOTS", "KeyMap", "claim_place", "find_place", "num_buckets_for"]

ABSENT = -(1 << 31)
SLOTS = 4
_BUCKET_BYTES = SLOTS * 8
_MAX_LOAD = 0.9
_GROWTH = 1.25
_MIN_BUCKETS = 16
_MAX_SEARCH = 512  # buckets looked at for a free slot; at nine tenths full a dozen is usual
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_NO_KEY = np.uint64(0)
Values = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]


def num_buckets_for(num_keys: int) -> int:
    """Buckets of a map that was made for so many keys."""
    return max(_MIN_BUCKETS, math.ceil(num_keys / (_MAX_LOAD * SLOTS)))


@njit(nogil=True, cache=True, inline="always")
def _buckets_of(key: np.uint64, num_buckets: np.uint64) -> tuple[np.int64, np.int64]:
    word = mix64(key)
    return np.int64((word & _LOW) * num_buckets >> _HALF), np.int64((word >> _HALF) * num_buckets >> _HALF)


@intrinsic
def _match_u64x4(typingctx: Any, address: Any, word: Any) -> Any:  # noqa: ARG001
    """Bit i is set where the i-th of the four uint64 at `address` (8-byte aligned) equals `word`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        vector = ir.VectorType(ir.IntType(64), 4)
        words = builder.load(builder.inttoptr(args[0], vector.as_pointer()), align=8)
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), args[1], ir.IntType(32)(0))
        splat = builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), 4), [0] * 4))
        equal = builder.bitcast(builder.icmp_unsigned("==", words, splat), ir.IntType(4))
        return builder.zext(equal, ir.IntType(64))

    return types.int64(types.int64, types.uint64), generate


@njit(nogil=True, cache=True, inline="always")
def find_place(table: Keys, key: np.uint64) -> int:
    """Where the key is (bucket * SLOTS + slot), or -1. The table must be contiguous."""
    first, second = _buckets_of(key, np.uint64(table.shape[0]))
    start = table.ctypes.data
    hits: int = _match_u64x4(start + first * _BUCKET_BYTES, key)  # type: ignore[call-arg]
    others: int = _match_u64x4(start + second * _BUCKET_BYTES, key)
    bucket = select(hits, first, second)
    place = bucket * SLOTS + lowest_bit(select(hits, hits, others | 16))
    return select(hits | others, place, -1)


@njit(nogil=True, cache=True, inline="always")
def claim_place(table: Keys, key: np.uint64) -> int:
    """A free place for a key that is not there, in the emptier of its buckets, or -1 if both are full."""
    first, second = _buckets_of(key, np.uint64(table.shape[0]))
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
def _make_room(
    table: Keys, values: Values, key: np.uint64, path: Places, touched: Places, count: int
) -> tuple[int, int]:
    """Frees a place in one of the key's full buckets by moving others; returns it (-1: none found) and the new count.

    Breadth first: `path` (_MAX_SEARCH, 3) gets buckets, the entry each was reached from, and the slot whose key leads
    here. A shortest path meets no bucket twice, so moving along it from its end never overwrites a key.
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
                if table[other, free] == _NO_KEY:
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
        place = find_place(table, keys[i])
        found[i] = ABSENT if place < 0 else values[place // SLOTS, place % SLOTS]


@njit(nogil=True, cache=True)
def _put(table: Keys, values: Values, keys: Keys, new: Values, path: Places, touched: Places) -> tuple[int, int, int]:
    """Stores the pairs in order; returns how many were stored, how many of them are new, how many places were written.

    The places are listed in `touched`, as far as it reaches.
    """
    added, count = 0, 0
    for i in range(keys.shape[0]):
        place = find_place(table, keys[i])
        if place < 0:
            place = claim_place(table, keys[i])
            if place < 0:
                place, count = _make_room(table, values, keys[i], path, touched, count)
            if place < 0:
                return i, added, count
            added += 1
        table[place // SLOTS, place % SLOTS] = keys[i]
        values[place // SLOTS, place % SLOTS] = new[i]
        if count < touched.shape[0]:
            touched[count] = place
        count += 1
    return keys.shape[0], added, count


@njit(nogil=True, cache=True)
def _remove(table: Keys, keys: Keys, touched: Places) -> int:
    removed = 0
    for i in range(keys.shape[0]):
        place = find_place(table, keys[i])
        if place >= 0 and keys[i] != _NO_KEY:
            table[place // SLOTS, place % SLOTS] = _NO_KEY
            touched[removed] = place
            removed += 1
    return removed


class KeyMap:
    """A map uint64 -> int32 that holds any keys but 0 and grows by a quarter when no place can be found for one.

    Args:
        capacity: how many keys are expected; sets the first size (nine tenths full at that many).

    Attributes:
        keys: (W, 4) uint64, the slots' keys.
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
        """The values of the keys, `ABSENT` where there is none: (K,) int32. O(K)."""
        keys = np.ascontiguousarray(keys, np.uint64)
        found = np.empty(keys.shape, np.int32)
        _get(self.keys, self.values, keys.reshape(-1), found.reshape(-1))
        found[keys == _NO_KEY] = ABSENT
        return found

    def put(self, keys: Keys, values: Values) -> Places | None:
        """Stores (K,) values under (K,) keys, in order, so that a repeated key keeps its last value.

        Returns:
            The places (bucket * SLOTS + slot) that were written, for copies elsewhere; None if most of them were.

        Raises:
            ValueError: one of the keys is 0.
        """
        keys = np.ascontiguousarray(keys, np.uint64)
        values = np.ascontiguousarray(values, np.int32)
        if np.any(keys == _NO_KEY):
            raise ValueError("key 0 names no feature and cannot be stored")
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

    def remove(self, keys: Keys) -> Places:
        """Forgets the keys, ignores those that are not there, and returns the places that are free now."""
        keys = np.ascontiguousarray(keys, np.uint64)
        touched = np.empty(len(keys), np.int64)
        removed = _remove(self.keys, keys, touched)
        self._size -= removed
        return touched[:removed]

    def items(self) -> tuple[Keys, Values]:
        """All keys and their values, in ascending order of the keys: two arrays of `len(self)`."""
        used = self.keys != _NO_KEY
        keys, values = self.keys[used], self.values[used]
        order = np.argsort(keys)
        return keys[order], values[order]

    def grow(self) -> None:
        """Makes the table a quarter larger (again, until every key has found a place)."""
        keys, values = self.items()
        path, touched = np.empty((_MAX_SEARCH, 3), np.int64), np.empty(0, np.int64)
        buckets = self.keys.shape[0]
        stored = -1
        while stored < len(keys):
            buckets = math.ceil(buckets * _GROWTH)
            self._allocate(buckets)
            stored, self._size, _ = _put(self.keys, self.values, keys, values, path, touched)
