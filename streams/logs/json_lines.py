"""Reads JSON lines: one object a line. Values are taken as text, so a number has the key of its digits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from streams.logs.log_rows import BadRow
from streams.logs.schema import LogSchema
from streams.logs.sparse_lines import Texts
from streams.logs.texts import split_path

__all__ = ["read_object"]

_NO_INTEGER = ".0"


def _number_text(text: str) -> str:
    """A number without the decimal point of an integer, as pandas writes one where values are missing."""
    return text.removesuffix(_NO_INTEGER)


# `parse_constant` is for NaN and Infinity, which JSON does not have, but Python and pandas write.
_DECODER = json.JSONDecoder(parse_float=_number_text, parse_int=str, parse_constant=str)


def read_object(line: bytes, schema: LogSchema) -> Texts | BadRow:
    """The texts of a line's used columns, None where one is missing or null."""
    try:
        row = _DECODER.decode(line.decode())
    except (ValueError, RecursionError) as error:
        return BadRow("Text", "", f"got {line[:60].decode('utf-8', 'replace')!r} ({error}), expected a JSON object")
    if not isinstance(row, dict):
        return BadRow("Text", "", f"got a JSON {type(row).__name__}, expected an object")
    texts: Texts = {}
    lists = schema.list_columns
    for column in schema.used_columns:
        value = row[column] if column in row else _find(row, column)
        if type(value) is str:  # numbers, too
            text = value.encode("utf-8", "surrogatepass")
            texts[column] = [text] if column in lists else text
        elif value is None:
            texts[column] = None
        elif column in lists:
            values = value if isinstance(value, list) else [value]
            if any(isinstance(one, list | dict) for one in values):
                return _refuse(column, value, "a list of values")
            texts[column] = [_text(one) for one in values]
        elif isinstance(value, bool):
            texts[column] = b"true" if value else b"false"
        else:
            return _refuse(column, value, "one value")
    return texts


def _text(value: str | bool | None) -> bytes | None:
    """The text of a value in a list; numbers are strings already."""
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return None if value is None else value.encode("utf-8", "surrogatepass")


def _refuse(column: str, value: list[Any] | dict[str, Any], expected: str) -> BadRow:
    """The fault of a column of several values."""
    kind, part = ("a list", f"{column}[0]") if isinstance(value, list) else ("an object", f"{column}.NAME")
    remedy = "" if expected != "one value" or kind != "a list" else "read them all with list = true, or "
    reason = f"column {column!r}: got {kind}, expected {expected}; {remedy}name a part of it, such as {part}"
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
