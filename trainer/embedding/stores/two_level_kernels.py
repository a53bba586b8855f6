"""The numba kernels of `TwoLevelRows`: vectors that are the sum of a row of level 1 and quarters of rows of level 2.

    N lookups of U keys, S lookups that the store serves, P distinct rows of level 2, D values a row, F fields

One loop serves both levels, so each vector is written once and each gradient is read once.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from sketch.hashing import GOLDEN_RATIO, mix64
from sketch.simd import load_u32, prefetch, select
from streams.keys import FIELD_SHIFT
from trainer.embedding.stores.kernels import AHEAD, STREAM_BYTES, count_of, lookup_of, prefetch_vector, widen
from trainer.embedding.stores.lanes import add_row, add_vector, dot, read_row

__all__ = ["TwoLevelKernels", "hash_keys", "number_rows", "two_level_kernels"]

_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


@njit(nogil=True, cache=True)
def hash_keys(keys, members, per_field, num_rows, seeds, addresses):
    """Hashes some keys to rows: fills the `addresses` (U, 1 + k) int32 of the keys `members` (M,), or of all if None.

    Column 0 is one of the `per_field` rows of level 1 that the key's field owns. The others are rows of level 2, two
    from each mixed word. Seeds (1 + k / 2,) are uint64.
    """
    count, columns = np.uint64(num_rows), addresses.shape[1]
    for n in range(keys.shape[0] if members is None else members.shape[0]):
        i = lookup_of(members, n)
        key, field = keys[i], np.int64(keys[i] >> FIELD_SHIFT) - 1
        hashed = (mix64(key ^ seeds[0]) >> _HALF) * np.uint64(per_field) >> _HALF
        addresses[i, 0] = field * per_field + np.int64(hashed)
        for pair in range(columns // 2):
            word = mix64(key ^ seeds[1 + pair])
            addresses[i, 1 + 2 * pair] = np.int64((word >> _HALF) * count >> _HALF)
            addresses[i, 2 + 2 * pair] = np.int64((word & _LOW) * count >> _HALF)


@njit(nogil=True, cache=True, inline="always")
def _number_row(row, slots, shift, rows, count):
    """Returns the number of a row and the new count. Branch-free, because whether a row is new is unpredictable."""
    mask, slot = np.uint64(slots.shape[0] - 1), np.uint64(row) * GOLDEN_RATIO >> shift
    rows[0] = row  # sentinel: an empty slot ends the search like the slot of the row
    entry = np.uint64(slots[slot])
    while rows[entry] != row:
        slot = (slot + np.uint64(1)) & mask
        entry = np.uint64(slots[slot])
    number = select(entry != 0, np.int64(entry), count + 1)
    rows[np.uint64(count + 1)] = row
    slots[slot] = number
    return number - 1, max(count, number)


@njit(nogil=True, cache=True)
def number_rows(addresses, members, slots, shift, rows, numbers):
    """Numbers the distinct rows of level 2 of some keys; returns their count.

    Args:
        addresses: (U, 1 + k) int32, as `hash_keys` fills them.
        members: (M,) int32, the indices of the keys, or None for all.
        slots: (2^b,) int32, zeros, more than 5/4 k M.
        shift: 64 - b, uint64.
        rows: (1 + k M,) int32; the first is scratch, the next P are filled.
        numbers: (U, k) int32, filled for the members with the numbers of their rows.
    """
    count = 0
    for n in range(addresses.shape[0] if members is None else members.shape[0]):
        i = np.uint64(lookup_of(members, n))
        for part in range(numbers.shape[1]):
            numbers[i, part], count = _number_row(addresses[i, 1 + part], slots, shift, rows, count)
    return count


class TwoLevelKernels(NamedTuple):
    """The kernels for one D and one number of parts."""

    gather: Any
    merge: Any


@cache
def two_level_kernels(dim: int, parts: int) -> TwoLevelKernels:
    """The kernels for vectors of `dim` values with `parts` parts from level 2, which may be none."""
    vector_bytes, columns = 4 * dim, 1 + parts
    behind = max(1, STREAM_BYTES // vector_bytes)  # lookups

    @njit(nogil=True, cache=True, error_model="numpy")
    def gather(first, first_scales, second, second_scales, addresses, fields, gates, inverse, where, out):
        """Writes the vectors of the lookups `where` (S,) to `out` (N, D): each level's times its gate (F, 2)."""
        first_start, second_start, item = first.ctypes.data, second.ctypes.data, first.itemsize
        target, count, row_bytes = np.int64(out.ctypes.data), count_of(where, inverse), dim * first.itemsize
        scaled = first_scales.shape[0] > 0
        inverse_at, addresses_at = inverse.ctypes.data, addresses.ctypes.data
        for n in range(count):
            if n + AHEAD < count:
                coming = load_u32(inverse_at + lookup_of(where, n + AHEAD) * 4) * columns
                for part in range(parts):
                    row = load_u32(addresses_at + (coming + 1 + part) * 4)
                    prefetch(second_start + row * row_bytes + part * dim // parts * item)
            prefetch_vector(target + lookup_of(where, min(n + behind, count - 1)) * vector_bytes, vector_bytes)
            i = lookup_of(where, n)
            key, at = load_u32(inverse_at + i * 4), target + i * vector_bytes
            field = np.uint64(fields[np.uint64(key)])
            row, scale = load_u32(addresses_at + key * columns * 4), gates[field, 0]
            if scaled:
                scale *= widen(first_scales[np.uint64(row)])
            read_row(first, first_start + row * row_bytes, scale, at, dim)
            for part in range(parts):
                left, right = part * dim // parts, (part + 1) * dim // parts
                row, scale = load_u32(addresses_at + (key * columns + 1 + part) * 4), gates[field, 1]
                if scaled:
                    scale *= widen(second_scales[np.uint64(row)])
                add_row(second, second_start + row * row_bytes + left * item, scale, at + left * 4, right - left)

    @njit(nogil=True, cache=True, error_model="numpy")
    def merge(
        gradient, vectors, inverse, where, addresses, numbers, fields, gates, first_sums, sums, factor, scores, dots
    ):
        """Adds the gradients (N, D) of the lookups `where` (S,) to the sums of both levels.

        Those of level 2 are multiplied by their gates, those of level 1 not: all lookups of a row share its gate.

        Args:
            gradient: (N, D) float32.
            vectors: (N, D) float32, the looked-up vectors.
            inverse: (N,) int32, the key of each lookup.
            where: (S,) int32, the lookups.
            addresses: (U, 1 + k) int32; column 0 is the row of `first_sums`.
            numbers: (U, k) int32, the rows of `sums`.
            fields: (U,) uint8, counted from 0.
            gates: (F, 2) float32.
            first_sums: (R, D) float32, of all rows of level 1, without gates.
            sums: (P, D) float32, of the rows of level 2 that are read.
            factor: the factor of the scores.
            scores: (U,) float32; the norm of each lookup's gradient times `factor` is added.
            dots: (F,) float64; the dot product of each lookup's gradient and vector is added.
        """
        source, looked_up = np.int64(gradient.ctypes.data), np.int64(vectors.ctypes.data)
        first_start, start, count = first_sums.ctypes.data, sums.ctypes.data, count_of(where, inverse)
        inverse_at, addresses_at, numbers_at = inverse.ctypes.data, addresses.ctypes.data, numbers.ctypes.data
        one = np.float32(1)
        for n in range(count):
            coming = lookup_of(where, min(n + behind, count - 1)) * vector_bytes
            prefetch_vector(source + coming, vector_bytes)
            prefetch_vector(looked_up + coming, vector_bytes)
            i = lookup_of(where, n)
            key, at = load_u32(inverse_at + i * 4), source + i * vector_bytes
            field = np.uint64(fields[np.uint64(key)])
            row = load_u32(addresses_at + key * columns * 4)
            square = add_vector(at, one, first_start + row * vector_bytes, dim)
            scores[np.uint64(key)] += np.sqrt(square) * factor
            dots[field] += dot(at, looked_up + i * vector_bytes, dim)
            for part in range(parts):
                left, right = part * dim // parts, (part + 1) * dim // parts
                target = start + load_u32(numbers_at + (key * parts + part) * 4) * vector_bytes + left * 4
                add_vector(at + left * 4, gates[field, 1], target, right - left)

    return TwoLevelKernels(gather, merge)
