"""Reading and training rows on a CPU, whatever they are stored as: the loops, compiled for each D.

    N lookups, U distinct keys among them, P distinct rows, D numbers a row, R physical rows

A table is float32, uint16 (bfloat16) or int8 (R, D); only the last has scales, bfloat16 as uint16 (R,), else (0,). What
its type means is `trainer.embedding.stores.lanes`' business, so there is one loop for all. D is a constant of the
compiled code: a row then needs no loop, and no check of what overlaps; the first use of a D compiles (numba's cache
keeps it). Arrays are contiguous, and indices are not checked.

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
from sketch.simd import bits_of_float32, float32_of_bits, load_i32, load_u32, prefetch
from trainer.embedding.layout import left_half
from trainer.embedding.stores.lanes import add_numbers, add_row, dot, read_row, round_row, step_row

__all__ = ["INT8_LIMIT", "INT8_TARGET", "RowKernels", "row_kernels", "touch"]

INT8_LIMIT = np.float32(127.0)
INT8_TARGET = np.float32(0.85 * 127.0)  # a new scale puts the row's maximum here
_HALF = np.float32(0.5)
_16 = np.uint32(16)
_ROUND = np.uint32(0x7FFF)
_ONE = np.uint32(1)
_AHEAD = 8  # rows on their way while one is read
_LINE_BYTES = 64
_BLOCK_BYTES = 32768  # of vectors, which stay in the cache: first the rows of all, then the halves that some have
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
    left_dim, block = left_half(dim), max(1, _BLOCK_BYTES // vector_bytes)
    right_dim, left_bytes = dim - left_dim, 4 * left_dim

    @njit(nogil=True, cache=True, error_model="numpy")
    def gather(table, scales, rows, left, right, gates, inverse, out):
        """Fills (N, D) float32 with each lookup's vector, times its key's gate if (U,) are given.

        Which keys have halves cannot be guessed, so their lookups are listed without a jump, block by block.
        """
        start, row_bytes, target = table.ctypes.data, dim * table.itemsize, np.int64(out.ctypes.data)
        right_start, padding, one = start + left_dim * table.itemsize, table.shape[0] - 1, np.float32(1)
        scaled, gated, has_level_2 = scales.shape[0] > 0, gates.shape[0] > 0, left.shape[0] > 0
        inverse_at, rows_at = inverse.ctypes.data, rows.ctypes.data
        left_at, right_at, cold = left.ctypes.data, right.ctypes.data, np.empty(block, np.int32)
        for first in range(0, inverse.shape[0], block):
            num_cold = 0
            for i in range(first, min(first + block, inverse.shape[0])):
                if i + _AHEAD < inverse.shape[0]:
                    coming = load_u32(inverse_at + (i + _AHEAD) * 4)
                    prefetch(start + load_u32(rows_at + coming * 4) * row_bytes)
                at = target + i * vector_bytes
                for line in range(0, vector_bytes, _LINE_BYTES):
                    prefetch(at + _STREAM_BYTES + line)
                key = load_u32(inverse_at + i * 4)
                row, scale = load_u32(rows_at + key * 4), gates[np.uint64(key)] if gated else one
                if scaled:
                    scale *= _widen(scales[np.uint64(row)])
                read_row(table, start + row * row_bytes, scale, at, dim)
                if has_level_2:
                    cold[np.uint64(num_cold)] = i
                    num_cold += load_u32(left_at + key * 4) != padding
            for n in range(num_cold):
                coming = load_u32(inverse_at + np.int64(cold[np.uint64(min(n + _AHEAD, num_cold - 1))]) * 4)
                prefetch(start + load_u32(left_at + coming * 4) * row_bytes)
                prefetch(right_start + load_u32(right_at + coming * 4) * row_bytes)
                i = np.int64(cold[np.uint64(n)])
                key, at = load_u32(inverse_at + i * 4), target + i * vector_bytes
                half, other = load_u32(left_at + key * 4), load_u32(right_at + key * 4)
                gate = gates[np.uint64(key)] if gated else one
                scale = gate * _widen(scales[np.uint64(half)]) if scaled else gate
                add_row(table, start + half * row_bytes, scale, at, left_dim)
                scale = gate * _widen(scales[np.uint64(other)]) if scaled else gate
                add_row(table, right_start + other * row_bytes, scale, at + left_bytes, right_dim)

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
        looked up, vectors (N, D). Halves are listed as in `gather`; what adds up to a number keeps its order.
        """
        gated, gate, looked_up = gates.shape[0] > 0, np.float32(1), np.int64(vectors.ctypes.data)
        source, start = np.int64(gradient.ctypes.data), sums.ctypes.data
        inverse_at, numbers_at, cold = inverse.ctypes.data, numbers.ctypes.data, np.empty(block, np.int32)
        for first in range(0, inverse.shape[0], block):
            num_cold = 0
            for i in range(first, min(first + block, inverse.shape[0])):
                at = source + i * vector_bytes
                for line in range(0, vector_bytes, _LINE_BYTES):
                    prefetch(at + _STREAM_BYTES + line)
                key = load_u32(inverse_at + i * 4)
                if gated:
                    gate = gates[np.uint64(key)]
                    dots[np.uint64(key)] += dot(at, looked_up + i * vector_bytes, dim)
                square = add_numbers(at, gate, start + load_i32(numbers_at + key * 12) * vector_bytes, dim)
                scores[np.uint64(key)] += np.sqrt(square) * scale
                cold[np.uint64(num_cold)] = i
                num_cold += load_i32(numbers_at + key * 12 + 4) >= 0
            for n in range(num_cold):
                i = np.int64(cold[np.uint64(n)])
                key, at = load_u32(inverse_at + i * 4), source + i * vector_bytes
                half, other = load_i32(numbers_at + key * 12 + 4), load_i32(numbers_at + key * 12 + 8)
                if gated:
                    gate = gates[np.uint64(key)]
                add_numbers(at, gate, start + half * vector_bytes, left_dim)
                add_numbers(at + left_bytes, gate, start + other * vector_bytes + left_bytes, right_dim)

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
