"""Reads JSON lines: one object a line. Values are taken as text, so a number has the key of its digits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from streams.logs.log_rows import BadRow
from streams.logs.schema import LogSchema
from streams.logs.texts import split_path

__all__ = ["read_object"]

_NO_INTEGER = ".0"


def _number_text(text: str) -> str:
    """A number without the decimal point of an integer, as pandas writes one where values are missing."""
    return text.removesuffix(_NO_INTEGER)


# `parse_constant` is for NaN and Infinity, which JSON does not have, but Python and pandas write.
_DECODER = json.JSONDecoder(parse_float=_number_text, parse_int=str, parse_constant=str)


def read_object(line: bytes, schema: LogSchema) -> dict[str, bytes | None] | BadRow:
    """The texts of a line's used columns, None where one is missing or null."""
    try:
        row = _DECODER.decode(line.decode())
    except (ValueError, RecursionError) as error:
        return BadRow("Text", "", f"got {line[:60].decode('utf-8', 'replace')!r} ({error}), expected a JSON object")
    if not isinstance(row, dict):
        return BadRow("Text", "", f"got a JSON {type(row).__name__}, expected an object")
    texts: dict[str, bytes | None] = {}
    for column in schema.used_columns:
        value = row[column] if column in row else _find(row, column)
        if type(value) is str:  # numbers, too
            texts[column] = value.encode("utf-8", "surrogatepass")
        elif value is None:
            texts[column] = None
        elif isinstance(value, bool):
            texts[column] = b"true" if value else b"false"
        else:
            return _refuse(column, value)
    return texts


def _refuse(column: str, value: list[Any] | dict[str, Any]) -> BadRow:
    """The fault of a column of several values."""
    kind, part = ("a list", f"{column}[0]") if isinstance(value, list) else ("an object", f"{column}.NAME")
    reason = f"column {column!r}: got {kind}, expected one value; name a part of it, such as {part}"
    return BadRow("Values", column, reason)


def _find(row: Mapping[str, Any], column: str) -> Any:
    """The member `a.b` or the element `a[0]` of an object; None if it is absent."""
    value: Any = row
    for step in split_path(column):
        if isinstance(step, int) and isinstance(value, list):
            value = value[step] if step < len(value) else None
        elif isinstance(step, str) and isinstance(value, dict):
            value = value.get(step)
        else:
            return None
    return value
