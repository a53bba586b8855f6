"""The numba kernels of a training step that work on keys and row numbers; each is one pass over its arrays.

    N lookups, U distinct keys among them, P distinct rows of these keys

Each has a torch body in `trainer.embedding.gathers`, which the tests hold equal. `trainer.embedding.stores.kernels` has
the kernels that read and update rows.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sketch.hashing import GOLDEN_RATIO, mix64
from sketch.keymap import ABSENT, SLOTS, find_slot
from sketch.simd import load_i32, prefetch, select
from streams.keys import FIELD_SHIFT

__all__ = ["deduplicate", "find", "hash_rows", "order", "step_gates"]

_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_AHEAD = 24  # keys whose buckets are prefetched ahead of the one that is compared
_BUCKET_BYTES, _VALUES_BYTES = SLOTS * 8, SLOTS * 4


@njit(nogil=True, cache=True)
def deduplicate(keys, slots, shift, unique, inverse):
    """Numbers the distinct keys in order of first occurrence; returns their count.

    Args:
        keys: (N,) uint64.
        slots: (2^k,) int32, zeros, more than 5/4 N: scratch for an open-addressed table of 1 + number.
        shift: 64 - k, uint64.
        unique: (N,) uint64, its first U filled.
        inverse: (N,) int32, filled with each key's number.
    """
    # A multiplicative hash suffices within one batch; its top bits are the best.
    mask, start = np.uint64(slots.shape[0] - 1), slots.ctypes.data
    count = 0
    for i in range(keys.shape[0]):
        if i + _AHEAD < keys.shape[0]:
            prefetch(start + np.int64(keys[i + _AHEAD] * GOLDEN_RATIO >> shift) * 4)
        key = keys[i]
        slot = key * GOLDEN_RATIO >> shift
        while True:
            entry = slots[slot]
            if entry == 0:
                unique[count] = key
                inverse[i] = count
                count += 1
                slots[slot] = count
                break
            if unique[entry - 1] == key:
                inverse[i] = entry - 1
                break
            slot = (slot + np.uint64(1)) & mask
    return count


@njit(nogil=True, cache=True)
def find(keys, slots, values, num_fields, found):
    """Looks up the map's value of each key, `ABSENT` without one; returns the number of keys of unknown fields.

    Whether the map holds a key is unpredictable, so the loop does not branch on it.

    Args:
        keys: (U,) uint64.
        slots: (W, 4) uint64, the keys of the map.
        values: (W, 4) int32.
        num_fields: F.
        found: (U,) int32, filled.
    """
    num_buckets, start, values_start = np.uint64(slots.shape[0]), slots.ctypes.data, values.ctypes.data
    unknown = 0
    for i in range(keys.shape[0]):
        field = np.int64(keys[i] >> FIELD_SHIFT)
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
def hash_rows(keys, seed, num_fields, per_field, rows):
    """As `hash_field`, for `rows` (N,) uint64; returns the number of keys of unknown fields."""
    unknown = 0
    for i in range(keys.shape[0]):
        field = np.int64(keys[i] >> FIELD_SHIFT) - 1
        if field < 0 or field >= num_fields:
            rows[i] = np.uint64(0)
            unknown += 1
        else:
            hashed = (mix64(keys[i] ^ seed) >> _HALF) * np.uint64(per_field) >> _HALF
            rows[i] = np.uint64(field * per_field) + hashed
    return unknown


@njit(nogil=True, cache=True)
def order(keys, rows, inverse, numbers, ordered_keys, ordered_rows, fields):
    """Renumbers keys so that those with a unique row come first; returns how many these are.

    Args:
        keys: (U,) uint64.
        rows: (U,) int32, negative for a key without a unique row.
        inverse: (N,) int32, the key of each lookup, renumbered in place.
        numbers: (U,) int32, scratch: the new number of each key.
        ordered_keys: (U,) uint64, filled.
        ordered_rows: (U,) int32, filled.
        fields: (U,) uint8, filled with the fields of the ordered keys, counted from 0.
    """
    num_hot = 0
    for i in range(rows.shape[0]):
        num_hot += rows[i] >= 0
    hot, other = 0, num_hot
    for i in range(rows.shape[0]):
        has_row = np.int64(rows[i] >= 0)
        number = np.uint64(select(has_row == 1, hot, other))
        numbers[i], ordered_keys[number], ordered_rows[number] = number, keys[i], rows[i]
        fields[number] = np.uint8((keys[i] >> FIELD_SHIFT) - np.uint64(1))
        hot, other = hot + has_row, other + 1 - has_row
    start = numbers.ctypes.data
    for i in range(inverse.shape[0]):
        inverse[i] = load_i32(start + np.int64(inverse[i]) * 4)
    return num_hot


@njit(nogil=True, cache=True, error_model="numpy")
def step_gates(gates, state, slopes, learning_rate, epsilon, bounds):
    """One Adagrad step on gates (F, g) with their slopes (F, g); bounds (2, g) are the least and the most of each."""
    for field in range(gates.shape[0]):
        for part in range(gates.shape[1]):
            slope = slopes[field, part]
            state[field, part] += slope * slope
            gate = gates[field, part] - learning_rate * slope / (np.sqrt(state[field, part]) + epsilon)
            gates[field, part] = min(max(gate, bounds[0, part]), bounds[1, part])
