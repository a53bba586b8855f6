"""What the text of a cell means: numbers, payloads of tokens, and the cells of a line with quotes."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np

from streams.keys import MISSING, Field, hash_token

__all__ = [
    "BAD_PAYLOAD",
    "MAX_CACHED",
    "TEXTS_REMEDY",
    "Payloads",
    "number_remedy",
    "parse_number",
    "split_cells",
    "split_path",
]

BAD_PAYLOAD = -1
MAX_CACHED = 1 << 18
TEXTS_REMEDY = "; a column of texts belongs in 'categorical'"
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_NO_NUMBER = frozenset({b"nan", b"null", b"none", b"na", b"n/a", rb"\n"})  # in lower case
_HEX_DIGITS = re.compile(rb"[0-9a-fA-F]{8}")
_STEP = re.compile(r"([^.\[\]]+)|\[([0-9]{1,4})\]")
_THOUSANDS = re.compile(r"[-+]?[0-9]{1,3}(?:[ ,.'_\u00a0\u202f][0-9]{3})+(?:[.,][0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+")
_QUOTED = re.compile(rb'"((?:[^"]|"")*)"')


class Payloads(dict[bytes, int]):
    """Token -> payload of one field; `BAD_PAYLOAD` for a token that is not of its kind.

    It computes a payload at the token's first lookup. Tokens repeat, and a hit costs a third of a hash.
    """

    def __init__(self, field: Field, missing: Collection[str] = ()) -> None:
        self._is_hex = field.kind == "hex32"
        self._missing = {b"", *(text.encode() for text in missing)}

    def __missing__(self, token: bytes) -> int:
        if len(self) >= MAX_CACHED:
            self.clear()
        if token in self._missing:
            payload = MISSING
        elif self._is_hex:
            payload = int(token, 16) if _HEX_DIGITS.fullmatch(token) else BAD_PAYLOAD
        else:
            payload = hash_token(token)
        self[token] = payload
        return payload


def parse_number(cell: bytes) -> float | None:
    """The value of a decimal cell; NaN if it is empty or a word for a missing number, such as `NULL`.

    None if the cell is not a number, or one that is not finite as float32.
    """
    if not cell or cell.lower() in _NO_NUMBER:
        return float("nan")
    if b"_" in cell or cell != cell.strip():  # Python's float accepts underscores and spaces
        return None
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if abs(value) <= _MAX_FLOAT32 else None


def number_remedy(cell: str, otherwise: str = "") -> str:
    """What to do about a cell that is no number, as the end of a message; empty for a number.

    Args:
        cell: the text.
        otherwise: what to do about a text that does not look like a number.
    """
    if parse_number(cell.encode()) is not None:
        return ""
    if _THOUSANDS.fullmatch(cell):
        return "; write it without separators of thousands in a copy of the log"
    if _DECIMAL_COMMA.fullmatch(cell):
        return f"; write {cell.replace(',', '.')} in a copy of the log"
    if parse_number(cell.strip().encode()) is not None:
        return "; remove the spaces around it in a copy of the log"
    return otherwise


def split_cells(line: bytes, delimiter: bytes, *, is_quoted: bool) -> list[bytes]:
    """The cells of a line, as the kernel finds them; from a quote that is not closed on, the rest is one cell."""
    if not is_quoted or b'"' not in line:
        return line.split(delimiter)
    cells: list[bytes] = []
    position = 0
    while True:
        match = _QUOTED.match(line, position)
        if match is not None and (match.end() == len(line) or line.startswith(delimiter, match.end())):
            cells.append(match[1].replace(b'""', b'"'))
            position = match.end()
        elif line.startswith(b'"', position):
            return [*cells, line[position:]]
        else:
            end = line.find(delimiter, position)
            position, begin = len(line) if end < 0 else end, position
            cells.append(line[begin:position])
        if position >= len(line):
            return cells
        position += len(delimiter)


def split_path(column: str) -> list[str | int]:
    """The steps to a member `a.b` or an element `a[0]`."""
    return [match[1] if match[2] is None else int(match[2]) for match in _STEP.finditer(column)]
