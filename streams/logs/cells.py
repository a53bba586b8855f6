"""The kernel that parses lines of delimited cells into arrays, and the fault codes of malformed lines.

It parses the labels 0 and 1, hex tokens and plain decimal numbers. For the cells that Python parses (tokens to hash,
times, other labels, and numbers with an exponent or more digits than the kernel converts exactly) it returns their byte
ranges. A quoted cell is read as RFC 4180 has it, except that it cannot hold a line break.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from streams.keys import FIELD_SHIFT, MISSING_WORD

__all__ = [
    "DENSE",
    "FAULT_COLUMNS",
    "FAULT_LABEL",
    "FAULT_LENGTH",
    "FAULT_NONE",
    "FAULT_NUMBER",
    "FAULT_QUOTE",
    "FAULT_TIME",
    "FAULT_TOKEN",
    "FAULT_WEIGHT",
    "HEX",
    "LABEL",
    "SPAN",
    "parse_lines",
]

FAULT_NONE, FAULT_COLUMNS, FAULT_LABEL, FAULT_NUMBER, FAULT_TOKEN, FAULT_LENGTH, FAULT_TIME = range(7)
FAULT_QUOTE, FAULT_WEIGHT = 7, 8
LABEL, DENSE, HEX, SPAN = range(4)  # the columns of `roles`
# An integer of at most 15 digits and its power of ten are exact in float64, so their quotient is correctly rounded and
# equals Python's float(cell).
_MAX_DIGITS = 15
_QUOTE = 34
_POWERS = 10.0 ** np.arange(_MAX_DIGITS + 1)

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]


@njit(nogil=True, cache=True, inline="always")
def _hex_payload(data: Bytes, begin: int, end: int) -> int:
    """The value of a cell of 8 hex digits; -1 for any other cell."""
    if end - begin != 8:
        return -1
    payload = 0
    for position in range(begin, end):
        byte = np.int64(data[position])
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
    """The value of a plain decimal cell, and whether it is exact; if not, the cell is left to Python."""
    position = begin
    is_negative = data[begin] == 45
    if is_negative:
        position += 1
    num_digits, num_decimals, mantissa, has_point = 0, 0, 0, False
    while position < end:
        byte = np.int64(data[position])
        if 48 <= byte <= 57:
            mantissa = mantissa * 10 + byte - 48
            num_digits += 1
            num_decimals += has_point
        elif byte == 46 and not has_point:
            has_point = True
        else:
            return 0.0, False
        if num_digits > _MAX_DIGITS:
            return 0.0, False
        position += 1
    value = mantissa / _POWERS[num_decimals]
    return (-value if is_negative else value), num_digits > 0


@njit(nogil=True, cache=True, inline="always")
def _is_delimiter(data: Bytes, position: int, end: int, delimiter: Bytes) -> bool:
    """Whether a delimiter of several bytes begins at a position."""
    if position + delimiter.shape[0] > end:
        return False
    for index in range(delimiter.shape[0]):  # noqa: SIM110  numba knows no `all`
        if data[position + index] != delimiter[index]:
            return False
    return True


@njit(nogil=True, cache=True, inline="always")
def _closing_quote(data: Bytes, begin: int, end: int) -> tuple[int, bool]:
    """The position of the quote that ends a cell, `end` without one; and whether the cell has doubled quotes."""
    position, is_doubled = begin, False
    while position < end:
        if data[position] == _QUOTE:
            if position + 1 == end or data[position + 1] != _QUOTE:
                break
            is_doubled = True
            position += 1
        position += 1
    return position, is_doubled


@njit(nogil=True, cache=True)
def parse_lines(  # noqa: C901, PLR0912, PLR0913, PLR0915  a kernel is one loop with all it needs
    data: Bytes,
    starts: Longs,
    ends: Longs,
    delimiter: Bytes,
    is_quoted: bool,
    max_line_bytes: int,
    roles: Ints,
    labels: npt.NDArray[np.int8],
    dense: npt.NDArray[np.float32],
    keys: npt.NDArray[np.uint64],
    spans: Ints,
    unread: Ints,
    faults: Ints,
) -> tuple[int, bool]:
    """Parses L lines of C cells.

    Args:
        data: the bytes of the block.
        starts: (L,) offsets of the lines' first bytes.
        ends: (L,) offsets behind the lines' last bytes.
        delimiter: the bytes between cells.
        is_quoted: whether a cell may be quoted.
        max_line_bytes: a longer line has the fault `FAULT_LENGTH`.
        roles: (C, 4) for each column: 0 or, if Python parses all cells, 1 if it is the label; its index in `dense`, in
            `keys` (hex tokens) and in `spans`; -1 where it has no such role. `LABEL`, `DENSE`, `HEX` and `SPAN` index
            the second axis.
        labels: (L,) out.
        dense: (L, D) out, NaN where the cell is empty.
        keys: (L, F) out, the hex columns only.
        spans: (L, S, 2) out: begin and end of the tokens and times that Python parses; of a cell with doubled quotes
            the begin is -1 - begin.
        unread: (L * (D + 1), 4) out: line, column, begin and end of each number and label that Python parses.
        faults: (L, 2) out: the first fault of each line and its column; for `FAULT_COLUMNS` the number of columns.

    Returns:
        The number of rows of `unread` that it filled, and whether a cell of `spans` has doubled quotes.
    """
    num_columns = roles.shape[0]
    num_unread, has_doubled = 0, False
    first, is_wide = delimiter[0], delimiter.shape[0] > 1
    for line in range(starts.shape[0]):
        faults[line, 0] = FAULT_NONE
        faults[line, 1] = 0
        line_end = ends[line]
        if line_end - starts[line] > max_line_bytes:
            faults[line, 0] = FAULT_LENGTH
            continue
        column = 0
        position = starts[line]
        while True:
            begin = position
            is_doubled = False
            if is_quoted and begin < line_end and data[begin] == _QUOTE:
                begin += 1
                end, is_doubled = _closing_quote(data, begin, line_end)
                position = end + 1
                if end == line_end or (position < line_end and not _is_delimiter(data, position, line_end, delimiter)):
                    faults[line, 0] = FAULT_QUOTE
                    faults[line, 1] = column
                    break
            else:
                while position < line_end and (
                    data[position] != first or (is_wide and not _is_delimiter(data, position, line_end, delimiter))
                ):
                    position += 1
                end = position
            if column < num_columns:
                fault = FAULT_NONE
                if roles[column, LABEL] >= 0:
                    if roles[column, LABEL] == 0 and end - begin == 1 and (data[begin] == 48 or data[begin] == 49):
                        labels[line] = data[begin] - 48
                    else:
                        unread[num_unread, 0] = line
                        unread[num_unread, 1] = column
                        unread[num_unread, 2] = begin
                        unread[num_unread, 3] = end
                        num_unread += 1
                index = roles[column, DENSE]
                if index >= 0:
                    dense[line, index] = np.nan
                    if end > begin:
                        value, is_exact = _decimal(data, begin, end)
                        if is_exact:
                            dense[line, index] = value
                        else:
                            unread[num_unread, 0] = line
                            unread[num_unread, 1] = column
                            unread[num_unread, 2] = begin
                            unread[num_unread, 3] = end
                            num_unread += 1
                index = roles[column, HEX]
                if index >= 0:
                    base = np.uint64(index + 1) << FIELD_SHIFT
                    keys[line, index] = base | MISSING_WORD
                    if end > begin:
                        payload = _hex_payload(data, begin, end)
                        if payload >= 0:
                            keys[line, index] = base | np.uint64(payload)
                        else:
                            fault = FAULT_TOKEN
                index = roles[column, SPAN]
                if index >= 0:
                    spans[line, index, 0] = -1 - begin if is_doubled else begin
                    spans[line, index, 1] = end
                    has_doubled |= is_doubled
                if fault != FAULT_NONE and faults[line, 0] == FAULT_NONE:
                    faults[line, 0] = fault
                    faults[line, 1] = column
            column += 1
            if position >= line_end:
                break
            position += delimiter.shape[0]
        if column != num_columns and faults[line, 0] != FAULT_QUOTE:
            faults[line, 0] = FAULT_COLUMNS
            faults[line, 1] = column
    return num_unread, has_doubled
