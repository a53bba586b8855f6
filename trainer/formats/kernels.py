"""Reading and training rows on a CPU, a pair of loops for each format: gather, and one step of the optimizer.

    N lookups, U distinct keys among them, P distinct rows, D numbers a row, R physical rows

A step: row-wise Adagrad, state += mean(g^2), row -= rate * g / (sqrt(state) + epsilon), where there is a state (R,);
plain descent, row -= rate * g, where it is empty. What does not fit the format is rounded up or down by chance, so
that it is right on average; the chance is a pure function of seed, round, row and place (`_noise`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sketch.hashing import mix64
from sketch.simd import prefetch
from trainer.float_bits import bits_of_float32, float32_of_bits

__all__ = [
    "INT8_LIMIT",
    "INT8_TARGET",
    "NOISE_CONSTANTS",
    "descend_bfloat16",
    "descend_float32",
    "descend_int8",
    "gather_bfloat16",
    "gather_float32",
    "gather_int8",
    "touch",
]

INT8_LIMIT = np.float32(127.0)
INT8_TARGET = np.float32(0.85 * 127.0)  # a new scale puts the row's maximum here
NOISE_CONSTANTS = (0x9E3779B9, 0x7FEB352D, 0x846CA68B)  # 2^32 / golden ratio, and "lowbias32" (C. Wellons)
_STEP, _FACTOR_1, _FACTOR_2 = (np.uint32(word) for word in NOISE_CONSTANTS)
_HALF_FLOAT = np.float32(0.5)
_NOISE_UNIT = np.float32(1.0 / 65536.0)
_16 = np.uint32(16)
_15 = np.uint32(15)
_SIGN = np.uint32(0x7FFFFFFF)
_ROUND = np.uint32(0x7FFF)
_ONE = np.uint32(1)
_HALF = np.uint64(32)
_AHEAD = 8  # rows on their way while one is read


@njit(nogil=True, cache=True, inline="always")
def _noise(salt, place):
    """16 random bits for one number of a row."""
    word = np.uint32(salt + np.uint32(np.uint32(place) * _STEP))
    word ^= word >> _16
    word = np.uint32(word * _FACTOR_1)
    word ^= word >> _15
    word = np.uint32(word * _FACTOR_2)
    return np.uint32(word >> _16)


@njit(nogil=True, cache=True, inline="always")
def _salt(seed, row):
    """32 random bits for one row in one round; `seed` holds the round in its upper half."""
    return np.uint32(mix64(seed ^ np.uint64(row)))


@njit(nogil=True, cache=True, inline="always")
def _widen(word):
    """The float32 of a bfloat16, given as uint16."""
    return float32_of_bits(np.uint32(np.uint32(word) << _16))


@njit(nogil=True, cache=True, inline="always")
def _nearest_bfloat16(number):
    """The nearest bfloat16, ties to even, as uint16."""
    bits = bits_of_float32(number)
    return np.uint16((bits + _ROUND + (bits >> _16 & _ONE)) >> _16)


@njit(nogil=True, cache=True, inline="always", fastmath={"reassoc", "nsz"})
def _rate_of(state, row, merged, i, rate, epsilon):
    """The learning rate of row `row`, whose gradient is merged[i], after its state has been brought up to date."""
    if state.shape[0] == 0:
        return rate
    dim = merged.shape[1]
    square = np.float32(0)
    for d in range(dim):
        square += merged[i, d] * merged[i, d]
    state[row] += square / np.float32(dim)
    return rate / (np.sqrt(state[row]) + epsilon)


@njit(nogil=True, cache=True)
def gather_float32(table, first, second, padding, inverse, out):
    """Fills (N, D) with the sums of each lookup's one or two rows."""
    dim = table.shape[1]
    start, row_bytes = table.ctypes.data, dim * 4
    for i in range(inverse.shape[0]):
        if i + _AHEAD < inverse.shape[0]:
            prefetch(start + np.int64(first[inverse[i + _AHEAD]]) * row_bytes)
        a = first[inverse[i]]
        b = second[inverse[i]]
        if b == padding:
            for d in range(dim):
                out[i, d] = table[a, d]
        else:
            for d in range(dim):
                out[i, d] = table[a, d] + table[b, d]


@njit(nogil=True, cache=True)
def gather_bfloat16(table, first, second, padding, inverse, out):
    """Likewise of uint16 (R, D) that are bfloat16."""
    dim = table.shape[1]
    start, row_bytes = table.ctypes.data, dim * 2
    for i in range(inverse.shape[0]):
        if i + _AHEAD < inverse.shape[0]:
            prefetch(start + np.int64(first[inverse[i + _AHEAD]]) * row_bytes)
        a = first[inverse[i]]
        b = second[inverse[i]]
        if b == padding:
            for d in range(dim):
                out[i, d] = _widen(table[a, d])
        else:
            for d in range(dim):
                out[i, d] = _widen(table[a, d]) + _widen(table[b, d])


@njit(nogil=True, cache=True)
def gather_int8(table, scales, first, second, padding, inverse, out):
    """Likewise of int8 (R, D) times a bfloat16 scale a row, as uint16 (R,)."""
    dim = table.shape[1]
    start, scale_start = table.ctypes.data, scales.ctypes.data
    for i in range(inverse.shape[0]):
        if i + _AHEAD < inverse.shape[0]:
            coming = np.int64(first[inverse[i + _AHEAD]])
            prefetch(start + coming * dim)
            prefetch(scale_start + coming * 2)
        a = first[inverse[i]]
        b = second[inverse[i]]
        scale_a = _widen(scales[a])
        if b == padding:
            for d in range(dim):
                out[i, d] = np.float32(table[a, d]) * scale_a
        else:
            scale_b = _widen(scales[b])
            for d in range(dim):
                out[i, d] = np.float32(table[a, d]) * scale_a + np.float32(table[b, d]) * scale_b


@njit(nogil=True, cache=True)
def descend_float32(table, state, rows, merged, rate, epsilon):
    """One step on the distinct rows (P,) with summed gradients (P, D)."""
    dim = table.shape[1]
    start, row_bytes = table.ctypes.data, dim * 4
    for i in range(rows.shape[0]):
        if i + _AHEAD < rows.shape[0]:
            prefetch(start + np.int64(rows[i + _AHEAD]) * row_bytes)
        row = rows[i]
        step = _rate_of(state, row, merged, i, rate, epsilon)
        for d in range(dim):
            table[row, d] -= step * merged[i, d]


@njit(nogil=True, cache=True)
def descend_bfloat16(table, state, rows, merged, rate, epsilon, seed):
    """Likewise; the low half of each result is added up with 16 random bits, and what does not carry is dropped."""
    dim = table.shape[1]
    start, row_bytes = table.ctypes.data, dim * 2
    for i in range(rows.shape[0]):
        if i + _AHEAD < rows.shape[0]:
            prefetch(start + np.int64(rows[i + _AHEAD]) * row_bytes)
        row = rows[i]
        step = _rate_of(state, row, merged, i, rate, epsilon)
        salt = _salt(seed, row)
        for d in range(dim):
            number = _widen(table[row, d]) - step * merged[i, d]
            table[row, d] = np.uint16((bits_of_float32(number) + _noise(salt, d)) >> _16)


@njit(nogil=True, cache=True)
def descend_int8(table, scales, state, rows, merged, rate, epsilon, seed, line):
    """Likewise; a row whose maximum leaves [.5, 1] of its range gets a new scale. `line` (D,) float32 is scratch."""
    dim = table.shape[1]
    start, scale_start = table.ctypes.data, scales.ctypes.data
    for i in range(rows.shape[0]):
        if i + _AHEAD < rows.shape[0]:
            coming = np.int64(rows[i + _AHEAD])
            prefetch(start + coming * dim)
            prefetch(scale_start + coming * 2)
        row = rows[i]
        step = _rate_of(state, row, merged, i, rate, epsilon)
        scale = _widen(scales[row])
        peak_bits = np.uint32(0)
        for d in range(dim):
            number = np.float32(table[row, d]) * scale - step * merged[i, d]
            line[d] = number
            bits = np.uint32(bits_of_float32(number) & _SIGN)  # of a magnitude: integers order as the numbers do
            peak_bits = bits if bits > peak_bits else peak_bits
        peak, limit = float32_of_bits(peak_bits), INT8_LIMIT * scale
        if not (_HALF_FLOAT * limit <= peak <= limit):
            renewed = _nearest_bfloat16(peak / INT8_TARGET)
            if renewed != 0:
                scales[row] = renewed
                scale = _widen(renewed)
        salt = _salt(seed, row)
        for d in range(dim):
            chance = (np.float32(_noise(salt, d)) + _HALF_FLOAT) * _NOISE_UNIT
            table[row, d] = np.int8(np.floor(line[d] / scale + chance))


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
