r"""Formats generated rows as lines of Criteo's text format, in one byte buffer.

A line is `label \t I1 ... I13 \t C1 ... C26 \n`; a missing cell is empty, a token is 8 hex digits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from streams.generator.blocks import RowBlock
from streams.keys import MISSING_WORD

__all__ = ["HEX_DIGITS", "format_tsv"]

Bytes = npt.NDArray[np.uint8]
_TAB, _NEWLINE, _MINUS, _ZERO = ord("\t"), ord("\n"), ord("-"), ord("0")
HEX_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8).copy()
_NIBBLE = np.uint64(15)
_MAX_NUMBER_BYTES = 20  # a 64-bit integer with its sign
_TOKEN_BYTES = 8


@njit(nogil=True, cache=True)
def _write_number(number: int, out: Bytes, end: int) -> int:
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
def _write_token(payload: np.uint64, out: Bytes, end: int) -> int:
    """Appends eight hex digits at offset `end`; returns the new end."""
    for digit in range(_TOKEN_BYTES):
        shift = np.uint64(28 - 4 * digit)
        out[end + digit] = HEX_DIGITS[np.int64((payload >> shift) & _NIBBLE)]
    return end + _TOKEN_BYTES


@njit(nogil=True, cache=True)
def _write_rows(
    label: npt.NDArray[np.int8],
    dense: npt.NDArray[np.float32],
    payloads: npt.NDArray[np.uint64],
    out: Bytes,
) -> int:
    """Writes B rows to the start of `out`; returns their number of bytes."""
    end = 0
    for row in range(label.shape[0]):
        end = _write_number(np.int64(label[row]), out, end)
        for column in range(dense.shape[1]):
            out[end] = _TAB
            end += 1
            if not np.isnan(dense[row, column]):
                end = _write_number(np.int64(dense[row, column]), out, end)
        for field in range(payloads.shape[1]):
            out[end] = _TAB
            end += 1
            if payloads[row, field] != MISSING_WORD:
                end = _write_token(payloads[row, field], out, end)
        out[end] = _NEWLINE
        end += 1
    return end


def format_tsv(block: RowBlock) -> memoryview:
    """The rows of a block as lines of Criteo's Kaggle file."""
    num_rows, num_fields = block.payloads.shape
    row_bytes = 6 + block.dense.shape[1] * (1 + _MAX_NUMBER_BYTES) + num_fields * (1 + _TOKEN_BYTES)
    out = np.empty(num_rows * row_bytes, np.uint8)
    return out[: _write_rows(block.label, block.dense, block.payloads, out)].data
