"""The loops of a training step on a CPU: loops only, arrays in, mutated in place, one pass each.

    N lookups, U distinct keys among them, P distinct rows of those

Each has a plain torch body in `trainer.embedding.gathers`, held equal by the tests. What is done with the rows' numbers
is `trainer.embedding.stores.kernels`' business.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sketch.hashing import GOLDEN_RATIO, mix64
from sketch.keymap import ABSENT, SLOTS, find_slot
from sketch.simd import load_i32, prefetch, select

__all__ = ["deduplicate", "find", "hash_field", "hash_parts", "hash_rows", "number_distinct", "number_rows", "split"]

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


@njit(nogil=True, cache=True)
def find(keys, slots, values, num_fields, found):
    """Fills what the map holds of each key, `ABSENT` if nothing; returns how many keys have no field of the model.

    Which keys are held cannot be guessed, so nothing here jumps on it.

    Args:
        keys: (U,) uint64.
        slots: (W, 4) uint64, the keys of the map.
        values: (W, 4) int32.
        num_fields: F.
        found: (U,) int32.
    """
    num_buckets, start, values_start = np.uint64(slots.shape[0]), slots.ctypes.data, values.ctypes.data
    unknown = 0
    for i in range(keys.shape[0]):
        field = np.int64(keys[i] >> _FIELD_SHIFT)
        unknown += (field < 1) | (field > num_fields)
    for i in range(keys.shape[0]):
        if i + _AHEAD < keys.shape[0]:
            word = mix64(keys[i + _AHEAD])
            bucket = np.int64((word & _LOW) * num_buckets >> _HALF)
            prefetch(start + bucket * _BUCKET_BYTES)
            prefetch(values_start + bucket * _VALUES_BYTES)
            bucket = np.int64((word >> _HALF) * num_buckets >> _HALF)
            prefetch(start + bucket * _BUCKET_BYTES)
            prefetch(values_start + bucket * _VALUES_BYTES)
        slot = find_slot(slots, keys[i])
        found[i] = select(slot >= 0, load_i32(values_start + max(slot, 0) * 4), np.int32(ABSENT))
    return unknown


@njit(nogil=True, cache=True)
def hash_field(keys, seed, per_field, rows):
    """Fills the row (U, 1) of each key among those that its field owns; a column of int32."""
    for i in range(keys.shape[0]):
        field = np.int64(keys[i] >> _FIELD_SHIFT) - 1
        hashed = (mix64(keys[i] ^ seed) >> _HALF) * np.uint64(per_field) >> _HALF
        rows[i, 0] = field * per_field + np.int64(hashed)


@njit(nogil=True, cache=True)
def hash_parts(keys, seed, num_rows, rows):
    """Fills the two rows (U, 2) int32 of each key: the halves of one mixed word, each scaled to the number of rows."""
    count = np.uint64(num_rows)
    for i in range(keys.shape[0]):
        word = mix64(keys[i] ^ seed)
        rows[i, 0] = np.int64((word >> _HALF) * count >> _HALF)
        rows[i, 1] = np.int64((word & _LOW) * count >> _HALF)


@njit(nogil=True, cache=True)
def hash_rows(keys, seed, num_fields, per_field, rows):
    """Fills the row of each key as `hash_field` does, as `uint64`; returns how many keys have no field of the model."""
    unknown = 0
    for i in range(keys.shape[0]):
        field = np.int64(keys[i] >> _FIELD_SHIFT) - 1
        if field < 0 or field >= num_fields:
            rows[i] = np.uint64(0)
            unknown += 1
        else:
            hashed = (mix64(keys[i] ^ seed) >> _HALF) * np.uint64(per_field) >> _HALF
            rows[i] = np.uint64(field * per_field) + hashed
    return unknown


@njit(nogil=True, cache=True)
def split(rows, inverse, hot_keys, other_keys, hot_lookups, other_lookups):
    """Parts keys and lookups into those that have a row of their own and the others; returns how many have, of each.

    Args:
        rows: (U,) int32, negative for a key that has none.
        inverse: (N,) int32, the key of each lookup.
        hot_keys: (1 + U,) int32: the numbers of those that have one, in order.
        other_keys: (1 + U,) int32: those of the others.
        hot_lookups: (1 + N,) int32, likewise.
        other_lookups: (1 + N,) int32, likewise.
    """
    num_keys, num_lookups = 0, 0
    for i in range(rows.shape[0]):
        has_row = np.int64(rows[i] >= 0)
        hot_keys[np.uint64(num_keys)], other_keys[np.uint64(i - num_keys)] = i, i
        num_keys += has_row
    start = rows.ctypes.data
    for i in range(inverse.shape[0]):
        has_row = np.int64(load_i32(start + np.int64(inverse[i]) * 4) >= 0)
        hot_lookups[np.uint64(num_lookups)], other_lookups[np.uint64(i - num_lookups)] = i, i
        num_lookups += has_row
    return num_keys, num_lookups


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
def number_rows(addresses, members, slots, shift, rows, numbers):
    """Numbers the distinct rows of some keys; returns how many there are.

    Args:
        addresses: (U, k) int32.
        members: (M,) int32, the keys.
        slots: (2^b,) int32, zeros, more than 5/4 k M.
        shift: 64 - b, uint64.
        rows: (1 + k M,) int32; its first is scratch, the P after it are filled.
        numbers: (U, k) int32, filled for the members with the numbers of their rows.
    """
    count = 0
    for n in range(members.shape[0]):
        i = np.uint32(members[n])
        for part in range(addresses.shape[1]):
            numbers[i, part], count = _number_row(addresses[i, part], slots, shift, rows, count)
    return count


@njit(nogil=True, cache=True)
def number_distinct(addresses, members, rows, numbers):
    """As `number_rows`, for one row a key and no two keys with the same: (U, 1), rows (M,)."""
    for n in range(members.shape[0]):
        i = np.uint32(members[n])
        rows[n], numbers[i, 0] = addresses[i, 0], n
