"""The numba kernels of `TwoLevelRows`: vectors that are the sum of a row of level 1 and quarters of rows of level 2.

    M keys, D values a row, F fields

One loop serves both levels, so each vector is written once and each gradient is read once.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from sketch.hashing import GOLDEN_RATIO, mix64
from sketch.simd import load_u32, select
from streams.keys import FIELD_SHIFT
from trainer.embedding.stores.kernels import AHEAD, prefetch_vector, widen
from trainer.embedding.stores.lanes import add_row, add_vector, dot, read_row

__all__ = ["TwoLevelKernels", "hash_keys", "number_rows", "two_level_kernels"]

_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


@njit(nogil=True, cache=True)
def hash_keys(keys, per_field, num_rows, seeds, addresses):
    """Hashes keys (M,) to rows: fills `addresses` (M, 1 + k) int32.

    Column 0 is one of the `per_field` rows of level 1 that the key's field owns. The others are rows of level 2, two
    from each mixed word. Seeds (1 + k / 2,) are uint64.
    """
    count, columns = np.uint64(num_rows), addresses.shape[1]
    for i in range(keys.shape[0]):
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
def number_rows(addresses, slots, shift, rows, numbers):
    """Numbers the distinct rows of level 2 that M keys read; returns their count.

    Args:
        addresses: (M, 1 + k) int32, as `hash_keys` fills them.
        slots: (2^b,) int32, zeros, more than 5/4 k M.
        shift: 64 - b, uint64.
        rows: (1 + k M,) int32; the first is scratch, the next P are filled.
        numbers: (M, k) int32, filled with the numbers of the rows.
    """
    count = 0
    for i in range(addresses.shape[0]):
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

    @njit(nogil=True, cache=True, error_model="numpy")
    def gather(first, first_scales, second, second_scales, addresses, fields, gates, out):
        """Writes the vectors (M, D) at addresses (M, 1 + k) to `out`: each level's times its gate (F, 2)."""
        first_start, second_start, item = first.ctypes.data, second.ctypes.data, first.itemsize
        target, count, row_bytes = np.int64(out.ctypes.data), addresses.shape[0], dim * first.itemsize
        scaled, address, ahead = first_scales.shape[0] > 0, np.int64(addresses.ctypes.data), AHEAD * columns * 4
        for n in range(count):
            if n + AHEAD < count:
                for part in range(parts):
                    row, left = load_u32(address + ahead + (1 + part) * 4), part * dim // parts
                    prefetch_vector(
                        second_start + row * row_bytes + left * item, ((part + 1) * dim // parts - left) * item
                    )
            field = np.uint64(fields[n])
            row, scale = load_u32(address), gates[field, 0]
            if scaled:
                scale *= widen(first_scales[np.uint64(row)])
            read_row(first, first_start + row * row_bytes, scale, target, dim)
            for part in range(parts):
                left, right = part * dim // parts, (part + 1) * dim // parts
                row, scale = load_u32(address + (1 + part) * 4), gates[field, 1]
                if scaled:
                    scale *= widen(second_scales[np.uint64(row)])
                add_row(second, second_start + row * row_bytes + left * item, scale, target + left * 4, right - left)
            target += vector_bytes
            address += columns * 4

    @njit(nogil=True, cache=True, error_model="numpy")
    def merge(gradient, vectors, addresses, numbers, fields, gates, first_sums, sums, dots):
        """Adds the gradients (M, D) of keys to the sums of both levels.

        Those of level 2 are multiplied by their gates, those of level 1 not: all keys of a row share its gate.

        Args:
            gradient: (M, D) float32.
            vectors: (M, D) float32, the looked-up vectors.
            addresses: (M, 1 + k) int32; column 0 is the row of `first_sums`.
            numbers: (M, k) int32, the rows of `sums`.
            fields: (M,) uint8, counted from 0.
            gates: (F, 2) float32.
            first_sums: (R, D) float32, of all rows of level 1, without gates.
            sums: (P, D) float32, of the rows of level 2 that are read.
            dots: (F,) float64; the dot product of each key's gradient and vector is added.
        """
        source, looked_up = np.int64(gradient.ctypes.data), np.int64(vectors.ctypes.data)
        first_start, start, numbers_at = first_sums.ctypes.data, sums.ctypes.data, np.int64(numbers.ctypes.data)
        one, count = np.float32(1), addresses.shape[0]
        for n in range(count):
            coming = min(AHEAD, count - 1 - n) * parts * 4
            for part in range(parts):
                left = part * dim // parts
                target = start + load_u32(numbers_at + coming + part * 4) * vector_bytes + left * 4
                prefetch_vector(target, ((part + 1) * dim // parts - left) * 4)
            field = np.uint64(fields[n])
            add_vector(source, one, first_start + np.int64(addresses[n, 0]) * vector_bytes, dim)
            dots[field] += dot(source, looked_up, dim)
            for part in range(parts):
                left, right = part * dim // parts, (part + 1) * dim // parts
                target = start + load_u32(numbers_at + part * 4) * vector_bytes + left * 4
                add_vector(source + left * 4, gates[field, 1], target, right - left)
            source += vector_bytes
            looked_up += vector_bytes
            numbers_at += parts * 4

    return TwoLevelKernels(gather, merge)
