"""Appends numbers as ASCII digits to a byte buffer, for kernels that write text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["HEX_DIGITS", "MAX_NUMBER_BYTES", "write_hex", "write_number"]

HEX_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8).copy()
MAX_NUMBER_BYTES = 20  # a 64-bit integer with its sign
_MINUS, _ZERO = ord("-"), ord("0")
_NIBBLE = np.uint64(15)


@njit(nogil=True, cache=True)
def write_number(number: int, out: npt.NDArray[np.uint8], end: int) -> int:
    """Appends a decimal number at offset `end`; returns the new end."""
    if number < 0:
        out[end] = _MINUS
        end += 1
        number = -number
    num_digits, rest = 1, number // 10
    while rest > 0:
        num_digits += 1
        rest //= 10
    for position in range(end + num_digits - 1, end - 1, -1):
        out[position] = _ZERO + number % 10
        number //= 10
    return end + num_digits


@njit(nogil=True, cache=True)
def write_hex(number: np.uint64, num_digits: int, out: npt.NDArray[np.uint8], end: int) -> int:
    """Appends the last `num_digits` hex digits of a number at offset `end`; returns the new end."""
    for digit in range(num_digits):
        shift = np.uint64(4 * (num_digits - 1 - digit))
        out[end + digit] = HEX_DIGITS[np.int64((number >> shift) & _NIBBLE)]
    return end + num_digits
