"""The numba kernels that read and train rows of any format, compiled for each D.

    N lookups of K addresses, P distinct rows, D values a row, R stored rows, F fields

A table is float32, uint16 (bfloat16) or int8 (R, D). Only int8 has scales, bfloat16 as uint16 (R,); for the others they
are (0,). `trainer.embedding.stores.lanes` handles the dtypes, so one loop serves all of them. D is a compile-time
constant: LLVM unrolls the loop over a row and needs no overlap check. The first use of a D compiles, and numba caches
the result. Arrays must be contiguous; indices are not checked.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from sketch.hashing import mix64
from sketch.simd import bits_of_float32, float32_of_bits, load_u32, prefetch
from trainer.embedding.stores.lanes import add_vector, dot, read_row, round_row, scale_vector, step_row

__all__ = [
    "AHEAD",
    "INT8_LIMIT",
    "STREAM_BYTES",
    "TARGET",
    "RowKernels",
    "entry_of",
    "prefetch_vector",
    "renewed_scale",
    "row_kernels",
    "touch",
    "widen",
]

INT8_LIMIT = np.float32(127.0)
TARGET = 0.85  # fraction of the range at which a new scale puts the row's largest magnitude
_INT8_TARGET = np.float32(TARGET * 127.0)
_HALF = np.float32(0.5)
_16 = np.uint32(16)
_ROUND = np.uint32(0x7FFF)
_ONE = np.uint32(1)
AHEAD = 8  # rows prefetched ahead of the one that is read
_LINE_BYTES = 64
STREAM_BYTES = 2048  # prefetched ahead of sequential reads and writes: the hardware prefetcher stops at every page


@njit(nogil=True, cache=True, inline="always")
def widen(word):
    """Converts a bfloat16, given as uint16, to float32."""
    return float32_of_bits(np.uint32(np.uint32(word) << _16))


@njit(nogil=True, cache=True)
def renewed_scale(scale, peak, limit, target):
    """The new scale of a row, bfloat16 as uint16; 0 if its peak magnitude is still in [.5, 1] of the range."""
    if _HALF * (limit * scale) <= peak <= limit * scale:
        return np.uint16(0)
    bits = bits_of_float32(peak / target)
    return np.uint16((bits + _ROUND + (bits >> _16 & _ONE)) >> _16)  # to the nearest, ties to even


@njit(nogil=True, cache=True, inline="always")
def entry_of(inverse, n):
    """Entry n of an int32 array, or n if it is None (decided at compile time, by the type)."""
    if inverse is None:
        return np.int64(n)
    return np.int64(load_u32(inverse.ctypes.data + n * 4))


@njit(nogil=True, cache=True, inline="always")
def prefetch_vector(at, vector_bytes):
    """Prefetches the lines of a vector."""
    for line in range(0, vector_bytes, _LINE_BYTES):
        prefetch(at + line)


class RowKernels(NamedTuple):
    """The kernels for one D."""

    gather: Any
    spread: Any
    merge: Any
    step: Any
    gate_sums: Any


@cache
def row_kernels(dim: int) -> RowKernels:
    """The kernels for rows of `dim` values."""
    vector_bytes, per_value = 4 * dim, np.float32(1 / dim)
    behind = max(1, STREAM_BYTES // vector_bytes)  # lookups

    @njit(nogil=True, cache=True, error_model="numpy")
    def gather(table, scales, addresses, fields, gates, inverse, out):
        """Writes the vectors of the lookups `inverse` (N,), times the gates (F, 1) of their fields if any, to `out`."""
        start, row_bytes, addresses_at = table.ctypes.data, dim * table.itemsize, addresses.ctypes.data
        target, count, gate = np.int64(out.ctypes.data), out.shape[0], np.float32(1)
        scaled, gated = scales.shape[0] > 0, gates.shape[0] > 0
        for n in range(count):
            if n + AHEAD < count:
                prefetch(start + load_u32(addresses_at + entry_of(inverse, n + AHEAD) * 4) * row_bytes)
            prefetch_vector(target + min(behind, count - 1 - n) * vector_bytes, vector_bytes)
            key = entry_of(inverse, n)
            row = load_u32(addresses_at + key * 4)
            if gated:
                gate = gates[np.uint64(fields[np.uint64(key)]), 0]
            scale = gate * widen(scales[np.uint64(row)]) if scaled else gate
            read_row(table, start + row * row_bytes, scale, target, dim)
            target += vector_bytes

    @njit(nogil=True, cache=True, error_model="numpy")
    def step(table, scales, state, rows, first_row, merged, keep, learning_rate, epsilon, seed, line):
        """One optimizer step on distinct rows (P,) with summed gradients (P, D), after each row is scaled by `keep`.

        `line` (D,) float32 is scratch.
        """
        start, row_bytes, gradient = table.ctypes.data, dim * table.itemsize, np.int64(merged.ctypes.data)
        scratch, scaled, scale, length = line.ctypes.data, scales.shape[0] > 0, np.float32(1), learning_rate
        has_state, state_start, scales_start = state.shape[0] > 0, state.ctypes.data, scales.ctypes.data
        for i in range(rows.shape[0]):
            if i + AHEAD < rows.shape[0]:
                coming = np.int64(rows[i + AHEAD])
                prefetch_vector(start + coming * row_bytes, row_bytes)
                if has_state:
                    prefetch(state_start + coming * 4)
                if scaled:
                    prefetch(scales_start + coming * 2)
            row = np.int64(rows[i])
            address = start + row * row_bytes
            if has_state:
                state[row] += dot(gradient, gradient, dim) * per_value
                length = learning_rate / (np.sqrt(state[row]) + epsilon)
            if scaled:
                scale = widen(scales[row])
            peak = step_row(table, address, keep * scale, gradient, length, scratch, dim)
            if scaled:
                renewed = renewed_scale(scale, peak, INT8_LIMIT, _INT8_TARGET)
                if renewed != 0:
                    scales[row] = renewed
                    scale = widen(renewed)
            salt = np.uint32(mix64(seed ^ np.uint64(first_row + row)))  # 32 random bits per row and step
            round_row(table, scratch, scale, salt, address, dim)
            gradient += vector_bytes

    @njit(nogil=True, cache=True, error_model="numpy")
    def spread(vectors, inverse, out):
        """Copies the vector of each lookup, entry `inverse` (N,) of `vectors` (K, D), to `out` (N, D)."""
        start, target, count, one = vectors.ctypes.data, np.int64(out.ctypes.data), inverse.shape[0], np.float32(1)
        for n in range(count):
            if n + AHEAD < count:
                prefetch_vector(start + entry_of(inverse, n + AHEAD) * vector_bytes, vector_bytes)
            prefetch_vector(target + min(behind, count - 1 - n) * vector_bytes, vector_bytes)
            read_row(vectors, start + entry_of(inverse, n) * vector_bytes, one, target, dim)
            target += vector_bytes

    @njit(nogil=True, cache=True, error_model="numpy")
    def merge(gradient, inverse, sums, factor, scores):
        """Adds the gradients (N, D) of lookups to the sums (K, D) of the entries `inverse` (N,) that they read.

        With scores (K,), also adds the norm of each lookup's gradient times `factor` to the score of its entry.
        """
        tallied, one = scores.shape[0] > 0, np.float32(1)
        source, start, count = np.int64(gradient.ctypes.data), sums.ctypes.data, inverse.shape[0]
        for n in range(count):
            prefetch_vector(source + min(behind, count - 1 - n) * vector_bytes, vector_bytes)
            key = entry_of(inverse, n)
            square = add_vector(source, one, start + key * vector_bytes, dim)
            if tallied:
                scores[np.uint64(key)] += np.sqrt(square) * factor
            source += vector_bytes

    @njit(nogil=True, cache=True, error_model="numpy")
    def gate_sums(vectors, sums, fields, gates, dots):
        """Multiplies the sums (P, D) by the gates (F, g) of their fields (P,), the first of each.

        Adds the dot product of each sum, before, and its vector (P, D) to that (F,) of its field.
        """
        looked_up, gradient = np.int64(vectors.ctypes.data), np.int64(sums.ctypes.data)
        for i in range(fields.shape[0]):
            field = np.uint64(fields[i])
            dots[field] += dot(looked_up, gradient, dim)
            scale_vector(gradient, gates[field, 0], dim)
            gradient += vector_bytes
            looked_up += vector_bytes

    return RowKernels(gather, spread, merge, step, gate_sums)


@njit(nogil=True, cache=True)
def touch(table, rows):
    """Changes every byte of the rows (P,) of a uint8 table (R, bytes): the least memory traffic of an update."""
    width = table.shape[1]
    start = table.ctypes.data
    for i in range(rows.shape[0]):
        if i + AHEAD < rows.shape[0]:
            prefetch(start + np.int64(rows[i + AHEAD]) * width)
        for column in range(width):
            table[rows[i], column] ^= np.uint8(1)
