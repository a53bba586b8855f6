"""The loops of a training step on a CPU: loops only, arrays in, mutated in place, one pass each.

    N lookups, U distinct keys among them, P distinct rows of those

Each has a plain torch body in `trainer.embedding.gathers`, held equal by the tests. What is done with the rows' numbers
is `trainer.embedding.stores.kernels`' business.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sketch.hashing import GOLDEN_RATIO, mix64
from sketch.keymap import SLOTS, find_slot
from sketch.simd import load_i32, prefetch, select
from trainer.embedding.layout import LEVEL_1_SEED, LEVEL_2_SEED

__all__ = ["deduplicate", "hash_rows", "number_rows", "route"]

_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_FIELD_SHIFT = np.uint64(56)
_AHEAD = 24  # keys whose buckets are on their way while one is compared
_BUCKET_BYTES, _VALUES_BYTES = SLOTS * 8, SLOTS * 4


@njit(nogil=True, cache=True)
def deduplicate(keys, slots, shift, unique, inverse):
    """Numbers the distinct keys in order of first occurrence; returns how many there are.

    Args:
        keys: (N,) uint64.
        slots: (2^k,) int32, zeros, more than 5/4 N: an open-addressed table that is full of 1 + number afterwards.
        shift: 64 - k, uint64.
        unique: (N,) uint64, its first U filled.
        inverse: (N,) int32, filled with each key's number.
    """
    # The top bits of a multiplicative hash are good enough within one batch.
    mask, start = np.uint64(slots.shape[0] - 1), slots.ctypes.data
    count = 0
    for i in range(keys.shape[0]):
        if i + _AHEAD < keys.shape[0]:
            prefetch(start + np.int64(keys[i + _AHEAD] * GOLDEN_RATIO >> shift) * 4)
        key = keys[i]
        place = key * GOLDEN_RATIO >> shift
        while True:
            entry = slots[place]
            if entry == 0:
                unique[count] = key
                inverse[i] = count
                count += 1
                slots[place] = count
                break
            if unique[entry - 1] == key:
                inverse[i] = entry - 1
                break
            place = (place + np.uint64(1)) & mask
    return count


@njit(nogil=True, cache=True, inline="always")
def _shared_row(key, seed, rows_per_field):
    """The row of a key within one level, counted from the level's start."""
    field = np.int64(key >> _FIELD_SHIFT) - 1
    place = (mix64(key ^ seed) >> _HALF) * np.uint64(rows_per_field) >> _HALF
    return field * rows_per_field + np.int64(place)


@njit(nogil=True, cache=True)
def route(keys, slots, values, num_fields, capacity, per_field, level_2_rows, rows, left, right):
    """Fills the rows of each key; returns how many keys have no field of the model (their rows mean nothing).

    Which tier a key is in cannot be guessed, so nothing here jumps on it: all keys are routed as if they were cold, in
    loops that become vectors, then those that are hot again.

    Args:
        keys: (U,) uint64.
        slots: (W, 4) uint64, the router's map of hot keys.
        values: (W, 4) int32, their unique rows.
        num_fields: F.
        capacity: unique rows.
        per_field: rows of level 1 that each field owns.
        level_2_rows: of level 2.
        rows: (U,) int32.
        left: (U,) int32, the row of level 2 whose left half is added; (0,) if there is no such level.
        right: likewise.
    """
    level_2 = capacity + num_fields * per_field
    padding, has_level_2, num_halves = level_2 + level_2_rows, left.shape[0] > 0, np.uint64(level_2_rows)
    num_buckets, start, values_start = np.uint64(slots.shape[0]), slots.ctypes.data, values.ctypes.data
    strangers = 0
    for i in range(keys.shape[0]):
        field = np.int64(keys[i] >> _FIELD_SHIFT)
        strangers += (field < 1) | (field > num_fields)
        rows[i] = capacity + _shared_row(keys[i], LEVEL_1_SEED, per_field)
    for i in range(left.shape[0]):
        word = mix64(keys[i] ^ LEVEL_2_SEED)
        left[i] = level_2 + np.int64((word >> _HALF) * num_halves >> _HALF)
        right[i] = level_2 + np.int64((word & _LOW) * num_halves >> _HALF)
    for i in range(keys.shape[0]):
        if i + _AHEAD < keys.shape[0]:
            word = mix64(keys[i + _AHEAD])
            bucket = np.int64((word & _LOW) * num_buckets >> _HALF)
            prefetch(start + bucket * _BUCKET_BYTES)
            prefetch(values_start + bucket * _VALUES_BYTES)
            bucket = np.int64((word >> _HALF) * num_buckets >> _HALF)
            prefetch(start + bucket * _BUCKET_BYTES)
            prefetch(values_start + bucket * _VALUES_BYTES)
        place = find_slot(slots, keys[i])
        is_hot = place >= 0
        rows[i] = select(is_hot, load_i32(values_start + max(place, 0) * 4), rows[i])
        if has_level_2:
            left[i] = select(is_hot, padding, left[i])
            right[i] = select(is_hot, padding, right[i])
    return strangers


@njit(nogil=True, cache=True)
def hash_rows(keys, num_fields, per_field, rows):
    """Fills the one shared row of each key, as `uint64`; returns how many keys have no field of the model."""
    strangers = 0
    for i in range(keys.shape[0]):
        field = np.int64(keys[i] >> _FIELD_SHIFT)
        if field < 1 or field > num_fields:
            rows[i] = np.uint64(0)
            strangers += 1
        else:
            rows[i] = np.uint64(_shared_row(keys[i], LEVEL_1_SEED, per_field))
    return strangers


@njit(nogil=True, cache=True, inline="always")
def _number_row(row, slots, shift, rows, count):
    """The number of a row, and how many have one then. Whether it is new cannot be guessed, so nothing jumps on it."""
    mask, place = np.uint64(slots.shape[0] - 1), np.uint64(row) * GOLDEN_RATIO >> shift
    rows[0] = row  # so that an empty slot ends the search like the row's own
    entry = np.uint64(slots[place])
    while rows[entry] != row:
        place = (place + np.uint64(1)) & mask
        entry = np.uint64(slots[place])
    number = select(entry != 0, np.int64(entry), count + 1)
    rows[np.uint64(count + 1)] = row
    slots[place] = number
    return number - 1, max(count, number)


@njit(nogil=True, cache=True)
def number_rows(first, left, right, capacity, slots, shift, rows, numbers):
    """Numbers the distinct rows of the keys; returns how many there are. A unique row has one key, so needs no search.

    Args:
        first: (U,) int32, unique rows or rows of level 1.
        left: (U,) or (0,) int32, rows of level 2.
        right: likewise.
        capacity: unique rows.
        slots: (2^k,) int32, zeros, more than 5/4 times as many as routes to shared rows.
        shift: 64 - k, uint64.
        rows: (1 + 3 U,) int32, or (1 + U,) if there is no level 2; its first is scratch, the P after it are filled.
        numbers: (U, 3) int32, filled with the numbers of each key's rows; -1 where there is none.
    """
    sharing = np.empty(first.shape[0], np.int32)  # the keys without a unique row, whose turn comes afterwards
    count, num_sharing = 0, 0
    for i in range(first.shape[0]):
        is_unique = np.int64(first[i] < capacity)
        rows[count + 1], sharing[num_sharing] = first[i], i
        numbers[i, 0], numbers[i, 1], numbers[i, 2] = count, -1, -1
        count += is_unique
        num_sharing += 1 - is_unique
    for n in range(num_sharing):
        i = np.uint32(sharing[n])
        numbers[i, 0], count = _number_row(first[i], slots, shift, rows, count)
        if left.shape[0] > 0:
            numbers[i, 1], count = _number_row(left[i], slots, shift, rows, count)
            numbers[i, 2], count = _number_row(right[i], slots, shift, rows, count)
    return count
