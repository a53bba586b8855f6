"""Reading and training rows on a CPU, whatever they are stored as: the loops, compiled for each D.

    N lookups, U distinct keys among them, P distinct rows, D numbers a row, R physical rows

A table is float32, uint16 (bfloat16) or int8 (R, D); only the last has scales, bfloat16 as uint16 (R,), else (0,). What
its type means is `trainer.formats.lanes`' business, so there is one loop for all. D is a constant of the compiled code:
a row then needs no loop, and no check of what overlaps; the first use of a D compiles (numba's cache keeps it). Arrays
are contiguous, and indices are not checked.

A step: row-wise Adagrad, state += mean(g^2), row -= rate * g / (sqrt(state) + epsilon), where there is a state (R,);
plain descent, row -= rate * g, where it is empty. What does not fit the format is rounded up or down by chance, so
that it is right on average; the chance is a pure function of seed, round, row and place.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from sketch.hashing import mix64
from sketch.simd import prefetch
from trainer.float_bits import bits_of_float32, float32_of_bits
from trainer.formats.lanes import add_numbers, add_rows, dot, round_row, step_row
from trainer.layout import left_half

__all__ = ["INT8_LIMIT", "INT8_TARGET", "RowKernels", "row_kernels", "touch"]

INT8_LIMIT = np.float32(127.0)
INT8_TARGET = np.float32(0.85 * 127.0)  # a new scale puts the row's maximum here
_HALF = np.float32(0.5)
_16 = np.uint32(16)
_ROUND = np.uint32(0x7FFF)
_ONE = np.uint32(1)
_AHEAD = 8  # rows on their way while one is read
_LINE_BYTES = 64
_STREAM_BYTES = 2048  # likewise of what is read or written in order: the machine's own prefetcher stops at every page


@njit(nogil=True, cache=True, inline="always")
def _widen(word):
    """The float32 of a bfloat16, given as uint16."""
    return float32_of_bits(np.uint32(np.uint32(word) << _16))


@njit(nogil=True, cache=True)
def _renewed(scale, peak):
    """The scale of a row whose largest magnitude has left [.5, 1] of its range, bfloat16 as uint16; 0: keep the old."""
    limit = INT8_LIMIT * scale
    if _HALF * limit <= peak <= limit:
        return np.uint16(0)
    bits = bits_of_float32(peak / INT8_TARGET)
    return np.uint16((bits + _ROUND + (bits >> _16 & _ONE)) >> _16)  # to the nearest, ties to even


class RowKernels(NamedTuple):
    """The loops for one D."""

    gather: Any
    descend: Any
    merge_gradients: Any
    merge_scores: Any


@cache
def row_kernels(dim: int) -> RowKernels:
    """The loops for rows of `dim` numbers."""
    vector_bytes, per_number = 4 * dim, np.float32(1 / dim)
    left_dim = left_half(dim)
    right_dim, left_bytes = dim - left_dim, 4 * left_dim

    @njit(nogil=True, cache=True, error_model="numpy")
    def gather(table, scales, rows, left, right, gates, inverse, out):
        """Fills (N, D) float32 with each lookup's vector, times its key's gate if (U,) are given.

        Where there is a level 2, hot keys read the padding row, which is in the cache: to add zeros is cheaper than to
        ask.
        """
        start, row_bytes, target = table.ctypes.data, dim * table.itemsize, np.int64(out.ctypes.data)
        scaled, gated, one = scales.shape[0] > 0, gates.shape[0] > 0, np.float32(1)
        has_level_2, right_place = left.shape[0] > 0, left_dim * table.itemsize
        for i in range(inverse.shape[0]):
            if i + _AHEAD < inverse.shape[0]:
                coming = inverse[i + _AHEAD]
                prefetch(start + np.int64(rows[coming]) * row_bytes)
                if has_level_2:
                    prefetch(start + np.int64(left[coming]) * row_bytes)
                    prefetch(start + np.int64(right[coming]) * row_bytes + right_place)
            for line in range(0, vector_bytes, _LINE_BYTES):
                prefetch(target + _STREAM_BYTES + line)
            key = inverse[i]
            row, gate = np.int64(rows[key]), gates[key] if gated else one
            address, scale = start + row * row_bytes, gate * _widen(scales[row]) if scaled else gate
            if has_level_2:
                half, other = np.int64(left[key]), np.int64(right[key])
                half_scale = gate * _widen(scales[half]) if scaled else gate
                other_scale = gate * _widen(scales[other]) if scaled else gate
                half, other = start + half * row_bytes, start + other * row_bytes + right_place
                add_rows(table, address, scale, half, half_scale, target, left_dim)
                add_rows(table, address + right_place, scale, other, other_scale, target + left_bytes, right_dim)
            else:
                add_rows(table, address, scale, address, np.float32(0), target, dim)
            target += vector_bytes

    @njit(nogil=True, cache=True, error_model="numpy")
    def descend(table, scales, state, rows, merged, rate, epsilon, seed, line):
        """One step on the distinct rows (P,) with summed gradients (P, D). `line` (D,) float32 is scratch."""
        start, row_bytes, gradient = table.ctypes.data, dim * table.itemsize, np.int64(merged.ctypes.data)
        scratch, scaled, scale, step = line.ctypes.data, scales.shape[0] > 0, np.float32(1), rate
        has_state, state_start, scales_start = state.shape[0] > 0, state.ctypes.data, scales.ctypes.data
        for i in range(rows.shape[0]):
            if i + _AHEAD < rows.shape[0]:
                coming = np.int64(rows[i + _AHEAD])
                prefetch(start + coming * row_bytes)
                if has_state:
                    prefetch(state_start + coming * 4)
                if scaled:
                    prefetch(scales_start + coming * 2)
            row = np.int64(rows[i])
            address = start + row * row_bytes
            if has_state:
                state[row] += dot(gradient, gradient, dim) * per_number
                step = rate / (np.sqrt(state[row]) + epsilon)
            if scaled:
                scale = _widen(scales[row])
            peak = step_row(table, address, scale, gradient, step, scratch, dim)
            if scaled:
                renewed = _renewed(scale, peak)
                if renewed != 0:
                    scales[row] = renewed
                    scale = _widen(renewed)
            salt = np.uint32(mix64(seed ^ np.uint64(row)))  # 32 random bits for one row in one round
            round_row(table, scratch, scale, salt, address, dim)
            gradient += vector_bytes

    @njit(nogil=True, cache=True, error_model="numpy")
    def merge_gradients(gradient, inverse, sums):
        """Adds each lookup's gradient (N, D) to its row's (P, D)."""
        source, start = np.int64(gradient.ctypes.data), sums.ctypes.data
        for i in range(inverse.shape[0]):
            for line in range(0, vector_bytes, _LINE_BYTES):
                prefetch(source + _STREAM_BYTES + line)
            add_numbers(source, np.float32(1), start + np.int64(inverse[i]) * vector_bytes, dim)
            source += vector_bytes

    @njit(nogil=True, cache=True, error_model="numpy")
    def merge_scores(gradient, inverse, numbers, scale, sums, scores, gates, vectors, dots):
        """Adds each lookup's gradient (N, D) to its rows' sums (P, D), its norm times `scale` to its key's score.

        If there are gates (U,), what is added is multiplied by them, and (U,) `dots` get the gradient times what was
        looked up, vectors (N, D).
        """
        gated, gate, looked_up = gates.shape[0] > 0, np.float32(1), np.int64(vectors.ctypes.data)
        source, start = np.int64(gradient.ctypes.data), sums.ctypes.data
        for i in range(inverse.shape[0]):
            for line in range(0, vector_bytes, _LINE_BYTES):
                prefetch(source + _STREAM_BYTES + line)
            key = inverse[i]
            if gated:
                gate = gates[key]
                dots[key] += dot(source, looked_up, dim)
                looked_up += vector_bytes
            square = add_numbers(source, gate, start + np.int64(numbers[key, 0]) * vector_bytes, dim)
            scores[key] += np.sqrt(square) * scale
            half, other = np.int64(numbers[key, 1]), np.int64(numbers[key, 2])
            if half >= 0:
                add_numbers(source, gate, start + half * vector_bytes, left_dim)
                add_numbers(source + left_bytes, gate, start + other * vector_bytes + left_bytes, right_dim)
            source += vector_bytes

    return RowKernels(gather, descend, merge_gradients, merge_scores)


@njit(nogil=True, cache=True)
def touch(table, rows):
    """Changes every byte of the rows (P,) of uint8 (R, bytes): what an update must move at least."""
    width = table.shape[1]
    start = table.ctypes.data
    for i in range(rows.shape[0]):
        if i + _AHEAD < rows.shape[0]:
            prefetch(start + np.int64(rows[i + _AHEAD]) * width)
        for place in range(width):
            table[rows[i], place] ^= np.uint8(1)
