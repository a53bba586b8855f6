"""The loops of a training step on a CPU: loops only, arrays in, mutated in place, one pass each.

    N lookups, U distinct keys among them, D numbers a row, R physical rows

Each has a plain torch body in `trainer.gathers`, held equal by the tests. Sums run in the order of the lookups, so a
step is a pure function of its inputs; only the sums over D may be reassociated (that is what lets them be vectorised).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sketch.hashing import mix64
from trainer.layout import LEVEL_1_SEED, LEVEL_2_SEED

__all__ = [
    "adagrad",
    "deduplicate",
    "gather",
    "hash_rows",
    "merge_gradients",
    "merge_rows",
    "merge_scores",
    "route",
    "sgd",
]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: its product's top bits hash well enough for a batch
_HALF = np.uint64(32)
_FIELD_SHIFT = np.uint64(56)


@njit(nogil=True, cache=True)
def deduplicate(keys, slots, shift, unique, inverse):
    """Numbers the distinct keys in order of first occurrence; returns how many there are.

    Args:
        keys: (N,) uint64.
        slots: (2^k,) int32, zeros, at least 2 N: an open-addressed table that is full of 1 + number afterwards.
        shift: 64 - k, uint64.
        unique: (N,) uint64, its first U filled.
        inverse: (N,) int32, filled with each key's number.
    """
    mask = np.uint64(slots.shape[0] - 1)
    count = 0
    for i in range(keys.shape[0]):
        key = keys[i]
        place = key * _GOLDEN >> shift
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
def route(keys, values, num_fields, capacity, per_field_1, per_field_2, first, second):
    """Fills the one or two rows of each key; returns how many keys have no field of the model (their rows are 0).

    Args:
        keys: (U,) uint64.
        values: (U,) int32, what the router's map says: a row, -1 for warm, anything lower for cold.
        num_fields: F.
        capacity: unique rows.
        per_field_1: rows of level 1 that each field owns.
        per_field_2: likewise of level 2; 0 if there is no such level.
        first: (U,) int32.
        second: (U,) int32, the padding row where a key has no second one.
    """
    level_2 = capacity + num_fields * per_field_1
    padding = level_2 + num_fields * per_field_2
    strangers = 0
    for i in range(keys.shape[0]):
        key = keys[i]
        second[i] = padding
        field = np.int64(key >> _FIELD_SHIFT)
        if field < 1 or field > num_fields:
            first[i] = 0
            strangers += 1
        elif values[i] >= 0:
            first[i] = values[i]
        else:
            first[i] = capacity + _shared_row(key, LEVEL_1_SEED, per_field_1)
            if values[i] == -1 and per_field_2 > 0:
                second[i] = level_2 + _shared_row(key, LEVEL_2_SEED, per_field_2)
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


@njit(nogil=True, cache=True)
def gather(table, first, second, padding, inverse, out):
    """Fills (N, D) with the sums of each lookup's one or two rows."""
    dim = table.shape[1]
    for i in range(inverse.shape[0]):
        a = first[inverse[i]]
        b = second[inverse[i]]
        if b == padding:
            for d in range(dim):
                out[i, d] = table[a, d]
        else:
            for d in range(dim):
                out[i, d] = table[a, d] + table[b, d]


@njit(nogil=True, cache=True)
def merge_gradients(gradient, inverse, sums):
    """Adds each lookup's gradient (N, D) to its key's or row's (U, D)."""
    dim = gradient.shape[1]
    for i in range(inverse.shape[0]):
        j = inverse[i]
        for d in range(dim):
            sums[j, d] += gradient[i, d]


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"})
def merge_scores(gradient, inverse, scale, sums, scores):
    """`merge_gradients`, and the norm of each lookup's gradient times `scale` added to its key's score (U,)."""
    dim = gradient.shape[1]
    for i in range(inverse.shape[0]):
        j = inverse[i]
        square = np.float32(0)
        for d in range(dim):
            sums[j, d] += gradient[i, d]
            square += gradient[i, d] * gradient[i, d]
        scores[j] += np.sqrt(square) * scale


@njit(nogil=True, cache=True)
def merge_rows(first, second, padding, sums, slots, shift, rows, merged):
    """Adds the keys' gradients up per physical row; returns how many rows there are.

    Args:
        first: (U,) int32.
        second: (U,) int32.
        padding: the row that stands for none.
        sums: (U, D), the keys' gradients.
        slots: (2^k,) int32, zeros, at least 4 U.
        shift: 64 - k, uint64.
        rows: (2 U,) int32, filled in order of first occurrence.
        merged: (2 U, D), its first rows are filled; need not be zero before.
    """
    mask = np.uint64(slots.shape[0] - 1)
    dim = sums.shape[1]
    count = 0
    for i in range(first.shape[0]):
        for row in (first[i], second[i]):
            if row == padding:
                continue
            place = np.uint64(row) * _GOLDEN >> shift
            while True:
                entry = slots[place]
                if entry == 0:
                    rows[count] = row
                    for d in range(dim):
                        merged[count, d] = sums[i, d]
                    count += 1
                    slots[place] = count
                    break
                if rows[entry - 1] == row:
                    for d in range(dim):
                        merged[entry - 1, d] += sums[i, d]
                    break
                place = (place + np.uint64(1)) & mask
    return count


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"})
def adagrad(table, state, rows, merged, rate, epsilon):
    """Row-wise Adagrad on distinct rows: state += mean(g^2), row -= rate * g / (sqrt(state) + epsilon)."""
    dim = table.shape[1]
    for i in range(rows.shape[0]):
        row = rows[i]
        square = np.float32(0)
        for d in range(dim):
            square += merged[i, d] * merged[i, d]
        state[row] += square / np.float32(dim)
        step = rate / (np.sqrt(state[row]) + epsilon)
        for d in range(dim):
            table[row, d] -= step * merged[i, d]


@njit(nogil=True, cache=True)
def sgd(table, rows, merged, rate):
    """Plain descent on distinct rows: row -= rate * g."""
    dim = table.shape[1]
    for i in range(rows.shape[0]):
        row = rows[i]
        for d in range(dim):
            table[row, d] -= rate * merged[i, d]
