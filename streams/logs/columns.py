"""Arrow columns of logs: members of structs, elements of lists, and what a value is as the text of a delimited file.

A value has the same text, and so the same key, in whatever type it is stored: `5`, `5.0` and a decimal of 5 are `5`, a
date is `2023-11-14`, a UUID its usual form, true is `true`.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from streams.logs.texts import parse_number

__all__ = ["describe_type", "distinct_texts", "floats_of", "read_column", "top_level", "type_of", "values_of"]

_ELEMENT = re.compile(r"(.*)\[([0-9]{1,4})\]")
_UUID = "arrow.uuid"
Path = tuple[str | int, ...]


def _parse_path(column: str, types: Mapping[str, pa.DataType]) -> Path | None:
    """The steps to a column: its name, then members by name and elements by position; None if it does not exist."""
    if column in types:
        return (column,)
    element = _ELEMENT.fullmatch(column)
    if element is not None:
        outer = _parse_path(element[1], types)
        return None if outer is None else (*outer, int(element[2]))
    outer_name, dot, member = column.rpartition(".")
    while dot:
        outer = _parse_path(outer_name, types)
        if outer is not None:
            return (*outer, member)
        outer_name, dot, rest = outer_name.rpartition(".")
        member = f"{rest}.{member}"
    return None


def top_level(columns: Iterable[str], types: Mapping[str, pa.DataType]) -> list[str]:
    """The columns of a file that hold these, members and elements included."""
    paths = [_parse_path(column, types) for column in columns]
    return list(dict.fromkeys(str(path[0]) for path in paths if path is not None))


def type_of(column: str, types: Mapping[str, pa.DataType]) -> pa.DataType | None:
    """The type of a column, a member `a.b` or an element `a[0]`; None if it does not exist."""
    path = _parse_path(column, types)
    if path is None:
        return None
    kind = types[str(path[0])]
    for step in path[1:]:
        kind = _step_into(kind, step)
        if kind is None:
            return None
    return _storage(kind)


def _step_into(kind: pa.DataType, step: str | int) -> pa.DataType | None:
    if isinstance(step, int):
        return kind.value_type if is_list(kind) else None
    if not pa.types.is_struct(kind):
        return None
    index = kind.get_field_index(step)
    return None if index < 0 else kind.field(index).type


def _storage(kind: pa.DataType) -> pa.DataType:
    """The type without its extension, but for that of UUIDs."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) and kind.extension_name != _UUID else kind


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists."""
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def describe_type(kind: pa.DataType, column: str, name: str) -> str:
    """The remedy for a categorical column of several values; empty for others."""
    if is_list(kind):
        one = f'{{ name = "{name}_1", column = "{column}[0]" }}'
        read_from = "" if name == column else f', column = "{column}"'
        whole = f'{{ name = "{name}"{read_from}, list = true }}'
        return f"; to read all values of its lists: {whole}; to read elements as fields of their own: {one}"
    if pa.types.is_struct(kind) and kind.num_fields:
        member = f"{column}.{kind.field(0).name}"
        return f'; name its members, such as {{ name = "{name}.{kind.field(0).name}", column = "{member}" }}'
    return ""


def read_column(table: pa.Table, column: str) -> pa.Array:
    """A column, member or element of a table as one array."""
    path = _parse_path(column, {field.name: field.type for field in table.schema})
    if path is None:
        raise KeyError(column)
    found = table.column(str(path[0])).combine_chunks()
    array = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    for step in path[1:]:
        array = _element(array, step) if isinstance(step, int) else pc.struct_field(array, step)
    return array.storage if isinstance(array, pa.ExtensionArray) and _storage(array.type) != array.type else array


def _element(lists: pa.Array, position: int) -> pa.Array:
    values = [None if row is None or len(row) <= position else row[position] for row in lists.to_pylist()]
    return pa.array(values, lists.type.value_type)


def values_of(column: pa.Array) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """The distinct values of a column, and (B,) the index of each row's; that of a null is their number."""
    if pa.types.is_dictionary(column.type):
        values, indices = column.dictionary, column.indices
    else:
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        elif _is_view(column.type):  # Arrow does not encode views
            column = column.cast(pa.large_binary() if column.type == pa.binary_view() else pa.large_string())
        encoded = column.dictionary_encode()
        values, indices = encoded.dictionary, encoded.indices
    return values, pc.fill_null(indices.cast(pa.int64()), len(values)).to_numpy(zero_copy_only=False)


def _is_view(kind: pa.DataType) -> bool:
    return hasattr(pa, "string_view") and kind in (pa.string_view(), pa.binary_view())


def distinct_texts(column: pa.Array) -> tuple[list[bytes], npt.NDArray[np.int64]]:
    """The texts of a column's distinct values, the empty text of a null last, and (B,) the index of each row's."""
    if pa.types.is_null(column.type):
        return [b""], np.zeros(len(column), np.int64)
    values, indices = values_of(column)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = values.view(pa.binary() if pa.types.is_string(values.type) else pa.large_binary())  # need not be UTF-8
    if isinstance(column.type, pa.BaseExtensionType):
        return [*(_uuid_text(value) for value in values.to_pylist()), b""], indices
    if pa.types.is_float16(values.type) or pa.types.is_float32(values.type):
        return [*(_number_text(value) for value in values.to_numpy(zero_copy_only=False)), b""], indices
    return [*map(_text, values.to_pylist()), b""], indices


def _uuid_text(value: bytes | None) -> bytes:
    return b"" if value is None else str(uuid.UUID(bytes=value)).encode()


def _text(value: Any) -> bytes:
    """A value as the text of a delimited file; the empty text if it is missing."""
    if isinstance(value, bytes):
        return value
    if value is None:
        return b""
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, float):
        return _number_text(value)
    if isinstance(value, Decimal):
        whole = value.to_integral_value()
        return str(int(whole) if whole == value else value.normalize()).encode()
    return str(value).encode()  # an integer or a date


def _number_text(value: Any) -> bytes:
    """A floating point number; an integer without its decimal point, NaN as a missing value."""
    if math.isnan(value):
        return b""
    return b"%d" % int(value) if math.isfinite(value) and value == int(value) else str(value).encode()


def floats_of(column: pa.Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """(B,) float64, NaN where null, and a (B,) mask of the texts that are no numbers."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    no_fault = np.zeros(len(column), np.bool_)
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan), no_fault
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or is_binary(kind)):
        return pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False), no_fault
    texts, indices = distinct_texts(column)
    parsed = [parse_number(text) for text in texts]
    values = np.array([np.nan if value is None else value for value in parsed])
    return values[indices], np.array([value is None for value in parsed])[indices]


def is_binary(kind: pa.DataType) -> bool:
    """Whether values are bytes, or text in a view."""
    types = pa.types
    return bool(
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind) or _is_view(kind)
    )
