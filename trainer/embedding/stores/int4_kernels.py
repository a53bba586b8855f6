"""The numba loops of `Int4Rows`; without torch, so that a replica can read such rows, too."""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types.

from __future__ import annotations

import numpy as np
from numba import njit

from sketch.hashing import mix64
from trainer.embedding.stores.kernels import TARGET, entry_of, renewed_scale, widen
from trainer.embedding.stores.lanes import NOISE_CONSTANTS

__all__ = ["LIMIT", "OFFSET", "gather", "step"]

LIMIT, _TARGET = np.float32(7), np.float32(TARGET * 7)
OFFSET = 8
_MASK = np.uint64(0xFFFFFFFF)
_STEP, _FACTOR_1, _FACTOR_2 = (np.uint64(word) for word in NOISE_CONSTANTS)
_15, _16 = np.uint64(15), np.uint64(16)


@njit(nogil=True, cache=True, inline="always")
def _bits(values, row, column):
    """The four bits of one value, minus 8."""
    half = values.shape[1]
    byte = values[row, column - half] >> 4 if column >= half else values[row, column] & 15
    return np.float32(np.int32(byte) - OFFSET)


@njit(nogil=True, cache=True)
def gather(values, scales, addresses, fields, gates, inverse, out):
    """`gather` of `stores.kernels.row_kernels`."""
    dim, gated = out.shape[1], gates.shape[0] > 0
    for i in range(out.shape[0]):
        key = entry_of(inverse, i)
        row = addresses[key, 0]
        scale = (gates[fields[key], 0] if gated else np.float32(1)) * widen(scales[row])
        for column in range(dim):
            out[i, column] = _bits(values, row, column) * scale


@njit(nogil=True, cache=True, inline="always")
def _random_bits(salt, column):
    """16 random bits of one column: `Noise.bits`."""
    word = np.uint64(column >> 4 << 3 | column & 7) * _STEP + salt & _MASK
    word = (word ^ word >> _16) * _FACTOR_1 & _MASK
    word = (word ^ word >> _15) * _FACTOR_2 & _MASK
    return word >> _16 if column & 8 else word & np.uint64(0xFFFF)


@njit(nogil=True, cache=True, error_model="numpy")
def _round_row(values, row, vector, scale, salt):
    """Rounds a vector (D,) stochastically and stores it in a row."""
    half = values.shape[1]
    for column in range(vector.shape[0]):
        offset = (np.float32(_random_bits(salt, column)) + np.float32(0.5)) * np.float32(1 / 65536)
        bits = np.uint8(np.int32(np.floor(vector[column] / scale + offset)) + OFFSET)
        if column < half:
            values[row, column] = values[row, column] & 240 | bits
        else:
            values[row, column - half] = values[row, column - half] & 15 | bits << 4


@njit(nogil=True, cache=True, error_model="numpy")
def step(values, scales, state, rows, first_row, merged, keep, learning_rate, epsilon, seed, line):  # noqa: PLR0913
    """`step` of `stores.kernels.row_kernels`."""
    dim = merged.shape[1]
    for i in range(rows.shape[0]):
        row, length, peak = rows[i], learning_rate, np.float32(0)
        if state.shape[0] > 0:
            square = np.float32(0)
            for column in range(dim):
                square += merged[i, column] * merged[i, column]
            state[row] += square / np.float32(dim)
            length = learning_rate / (np.sqrt(state[row]) + epsilon)
        scale = widen(scales[row])
        for column in range(dim):
            line[column] = _bits(values, row, column) * (keep * scale) - length * merged[i, column]
            peak = max(peak, abs(line[column]))
        renewed = renewed_scale(scale, peak, LIMIT, _TARGET)
        if renewed != 0:
            scales[row] = renewed
            scale = widen(renewed)
        _round_row(values, row, line, scale, mix64(seed ^ np.uint64(first_row + row)) & _MASK)
