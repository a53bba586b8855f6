"""Arrow IPC streams of one record batch: written, and checked for type, shape and nulls when read."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.errors import ConfigError
from streams.keys import MAX_FIELDS, Field
from streams.records.arrow_messages import check_unpacked_bytes
from streams.records.headers import MAX_RECORD_BYTES

__all__ = [
    "column_of",
    "fields_from_metadata",
    "fields_to_json",
    "lists_of",
    "matrix_of",
    "read_stream",
    "write_stream",
]

_MAX_FIELDS_BYTES = 1 << 16  # 255 names of 64 characters take half of this
_MAX_ROWS = 1 << 20  # of any kind of record; a score and its key take 12 bytes


@lru_cache(maxsize=64)
def fields_to_json(fields: tuple[Field, ...]) -> str:
    """The schema metadata `fields`: a JSON list of [name, kind]."""
    return json.dumps([[field.name, field.kind] for field in fields], separators=(",", ":"))


@lru_cache(maxsize=64)
def _fields_from_json(listed: bytes) -> tuple[Field, ...]:
    if len(listed) > _MAX_FIELDS_BYTES:
        raise ValueError(f"got {len(listed)} bytes, expected at most {_MAX_FIELDS_BYTES}")
    fields = tuple(Field(name, kind) for name, kind in json.loads(listed))
    if not 1 <= len(fields) <= MAX_FIELDS or len({field.name for field in fields}) < len(fields):
        raise ValueError(f"got {len(fields)} fields, expected 1 to {MAX_FIELDS} with different names")
    return fields


def fields_from_metadata(metadata: Mapping[bytes, bytes] | None) -> tuple[Field, ...]:
    """The fields that a schema's metadata lists.

    Raises:
        ValueError: the metadata has no `fields`, or they are malformed.
    """
    try:
        return _fields_from_json((metadata or {})[b"fields"])
    except (KeyError, TypeError, ValueError, ConfigError, RecursionError, MemoryError) as error:
        raise ValueError(f"schema metadata 'fields': {error!r}, expected a JSON list of [name, kind]") from error


def write_stream(schema: pa.Schema, columns: list[pa.Array]) -> bytes:
    """Encodes the columns as an Arrow IPC stream of one record batch."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return sink.getvalue().to_pybytes()


def read_stream(value: bytes) -> pa.RecordBatch:
    """The single record batch of an Arrow IPC stream, validated.

    Nothing is unpacked before its size is checked.

    Raises:
        ValueError: the stream is malformed, too long, or does not hold exactly one batch.
    """
    if len(value) > MAX_RECORD_BYTES:
        raise ValueError(f"{len(value)} bytes, expected at most {MAX_RECORD_BYTES}")
    with _refusing():
        check_unpacked_bytes(value)
        return _read_batch(value)


@contextmanager
def _refusing() -> Iterator[None]:
    """Turns what pyarrow was seen to raise for mutated streams into a `ValueError`.

    A column of a type that Python cannot represent is a `KeyError`.
    """
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, OverflowError, MemoryError, struct.error) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _read_batch(value: bytes) -> pa.RecordBatch:
    with pa.ipc.open_stream(pa.py_buffer(value)) as reader:
        batches = []
        for batch in reader:
            batches.append(batch)
            if len(batches) > 1:
                break
    if len(batches) != 1:
        raise ValueError(f"got {'several' if batches else 'no'} batches, expected exactly one record batch")
    if batches[0].num_rows > _MAX_ROWS:
        raise ValueError(f"{batches[0].num_rows} rows, expected at most {_MAX_ROWS}")
    batches[0].validate(full=True)
    return batches[0]


def column_of(batch: pa.RecordBatch, name: str, expected: pa.DataType) -> pa.Array:
    """The column of this name.

    Raises:
        ValueError: the column is missing, has another type, or has nulls.
    """
    index = batch.schema.get_field_index(name)
    if index < 0:
        raise ValueError(f"column {name!r} is missing")
    with _refusing():
        column = batch.column(index)
        kind = column.type
    if kind != expected:
        raise ValueError(f"column {name!r}: got {kind}, expected {expected}")
    if column.null_count:
        raise ValueError(f"column {name!r}: {column.null_count} nulls, expected none")
    return column


def matrix_of(batch: pa.RecordBatch, name: str, item: pa.DataType, max_width: int) -> npt.NDArray[Any]:
    """A fixed-size-list column as a (B, width) array that shares the record's memory.

    Raises:
        ValueError: the column is missing, has another type, is wider than `max_width`, or has nulls.
    """
    index = batch.schema.get_field_index(name)
    if index < 0:
        raise ValueError(f"column {name!r} is missing")
    with _refusing():
        kind = batch.schema.field(index).type
    if not pa.types.is_fixed_size_list(kind) or kind.value_type != item:
        raise ValueError(f"column {name!r}: got {kind}, expected fixed_size_list<{item}>[n]")
    if kind.list_size > max_width:
        raise ValueError(f"column {name!r}: {kind.list_size} values a row, expected at most {max_width}")
    flat = column_of(batch, name, kind).flatten()
    if flat.null_count:
        raise ValueError(f"column {name!r}: nulls inside the lists, expected none")
    return flat.to_numpy().reshape(batch.num_rows, kind.list_size)


def lists_of(
    batch: pa.RecordBatch, name: str, item: pa.DataType, max_values: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]] | None:
    """A list column as (B + 1,) offsets and (M,) values that share the record's memory; None if there is none.

    Raises:
        ValueError: the column is there twice, has another type, more than `max_values` values, or nulls.
    """
    if name not in batch.schema.names:
        return None
    index = batch.schema.get_field_index(name)
    if index < 0:
        raise ValueError(f"column {name!r}: got it more than once, expected it once")
    with _refusing():
        kind = batch.schema.field(index).type
    if not pa.types.is_list(kind) or kind.value_type != item:
        raise ValueError(f"column {name!r}: got {kind}, expected list<{item}>")
    column = column_of(batch, name, kind)
    offsets = column.offsets.to_numpy().astype(np.int64)
    values = column.values[offsets[0] : offsets[-1]]
    if len(values) > max_values:
        raise ValueError(f"column {name!r}: {len(values)} values, expected at most {max_values} a record")
    if values.null_count:
        raise ValueError(f"column {name!r}: nulls inside the lists, expected none")
    return offsets - offsets[0], values.to_numpy()
