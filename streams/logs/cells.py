"""The kernel that turns lines of delimited cells into numbers, and what it says of the lines that it cannot.

It reads labels, hex tokens and plain decimal numbers itself, and says where the cells lie that are left to Python:
tokens to hash, times, and numbers with an exponent or too many digits to be exact here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = [
    "FAULT_COLUMNS",
    "FAULT_LABEL",
    "FAULT_LENGTH",
    "FAULT_NONE",
    "FAULT_NUMBER",
    "FAULT_TIME",
    "FAULT_TOKEN",
    "LABEL",
    "parse_lines",
]

FAULT_NONE, FAULT_COLUMNS, FAULT_LABEL, FAULT_NUMBER, FAULT_TOKEN, FAULT_LENGTH, FAULT_TIME = range(7)
LABEL, DENSE, HEX, SPAN = range(4)  # the columns of `roles`
_MISSING = np.uint64((1 << 56) - 1)
_FIELD_SHIFT = np.uint64(56)
# At most 15 digits and a power of ten that is exact in a float64: their quotient is the float64 that Python reads.
_MAX_DIGITS = 15
_POWERS = 10.0 ** np.arange(_MAX_DIGITS + 1)

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]


@njit(nogil=True, cache=True, inline="always")
def _hex_payload(data: Bytes, begin: int, end: int) -> int:
    """The number that 8 hex digits write; -1 if the cell is not 8 hex digits."""
    if end - begin != 8:
        return -1
    payload = 0
    for place in range(begin, end):
        byte = np.int64(data[place])
        if 48 <= byte <= 57:
            digit = byte - 48
        elif 97 <= byte <= 102:
            digit = byte - 87
        elif 65 <= byte <= 70:
            digit = byte - 55
        else:
            return -1
        payload = payload * 16 + digit
    return payload


@njit(nogil=True, cache=True, inline="always")
def _decimal(data: Bytes, begin: int, end: int) -> tuple[float, bool]:
    """The number that a plain decimal cell writes, and whether it is one that can be read exactly here."""
    place = begin
    negative = data[begin] == 45
    if negative:
        place += 1
    digits, decimals, mantissa, has_point = 0, 0, 0, False
    while place < end:
        byte = np.int64(data[place])
        if 48 <= byte <= 57:
            mantissa = mantissa * 10 + byte - 48
            digits += 1
            decimals += has_point
        elif byte == 46 and not has_point:
            has_point = True
        else:
            return 0.0, False
        if digits > _MAX_DIGITS:
            return 0.0, False
        place += 1
    value = mantissa / _POWERS[decimals]
    return (-value if negative else value), digits > 0


@njit(nogil=True, cache=True)
def parse_lines(  # noqa: C901, PLR0912, PLR0913, PLR0915  a kernel is one loop with all it needs
    data: Bytes,
    starts: Longs,
    ends: Longs,
    delimiter: int,
    max_line_bytes: int,
    roles: Ints,
    labels: npt.NDArray[np.int8],
    dense: npt.NDArray[np.float32],
    keys: npt.NDArray[np.uint64],
    spans: Ints,
    unread: Ints,
    faults: Ints,
) -> int:
    """Parses L lines of C cells; returns how many numbers are left to Python.

    Args:
        data: the bytes.
        starts: (L,) where lines begin.
        ends: (L,) where they end.
        delimiter: the byte between cells.
        max_line_bytes: a longer line is a fault.
        roles: (C, 4) per column: label (0), place in `dense`, in `keys` (hex tokens), in `spans`; -1 for none.
        labels: (L,) out.
        dense: (L, D) out, NaN where the cell is empty.
        keys: (L, F) out, the hex columns only.
        spans: (L, S, 2) out: begin and end of the cells to be read by Python.
        unread: (L * D, 4) out: line, column, begin and end of a number that is left to Python.
        faults: (L, 2) out: what is wrong with a line and in which column (the number of columns if that is wrong).
    """
    num_columns = roles.shape[0]
    num_unread = 0
    for line in range(starts.shape[0]):
        faults[line, 0] = FAULT_NONE
        faults[line, 1] = 0
        if ends[line] - starts[line] > max_line_bytes:
            faults[line, 0] = FAULT_LENGTH
            continue
        column = 0
        begin = starts[line]
        for end in range(starts[line], ends[line] + 1):
            if end < ends[line] and data[end] != delimiter:
                continue
            if column < num_columns:
                fault = FAULT_NONE
                if roles[column, LABEL] >= 0:
                    if end - begin == 1 and (data[begin] == 48 or data[begin] == 49):
                        labels[line] = data[begin] - 48
                    else:
                        fault = FAULT_LABEL
                place = roles[column, DENSE]
                if place >= 0:
                    dense[line, place] = np.nan
                    if end > begin:
                        value, is_exact = _decimal(data, begin, end)
                        if is_exact:
                            dense[line, place] = value
                        else:
                            unread[num_unread, 0] = line
                            unread[num_unread, 1] = column
                            unread[num_unread, 2] = begin
                            unread[num_unread, 3] = end
                            num_unread += 1
                place = roles[column, HEX]
                if place >= 0:
                    base = np.uint64(place + 1) << _FIELD_SHIFT
                    keys[line, place] = base | _MISSING
                    if end > begin:
                        payload = _hex_payload(data, begin, end)
                        if payload >= 0:
                            keys[line, place] = base | np.uint64(payload)
                        else:
                            fault = FAULT_TOKEN
                place = roles[column, SPAN]
                if place >= 0:
                    spans[line, place, 0] = begin
                    spans[line, place, 1] = end
                if fault != FAULT_NONE and faults[line, 0] == FAULT_NONE:
                    faults[line, 0] = fault
                    faults[line, 1] = column
            column += 1
            begin = end + 1
        if column != num_columns:
            faults[line, 0] = FAULT_COLUMNS
            faults[line, 1] = column
    return num_unread
