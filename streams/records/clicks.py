"""Click records: an Arrow batch of rows, or a single click as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.keys import CRITEO_FIELDS, Field, Keys
from streams.records.arrow import column_of, fields_from_metadata, fields_to_json, matrix_of, read_stream, write_stream
from streams.records.click_batch import ClickBatch
from streams.records.headers import ARROW, JSON, MAX_TIME_MS, BadRecord, Headers, read_headers
from streams.records.json_click import click_from_json
from streams.records.key_checks import find_misplaced
from streams.records.more_values import (
    KEY_WEIGHTS,
    MORE,
    MORE_WEIGHTS,
    MoreValues,
    Weights,
    more_from_lists,
    more_to_lists,
    more_weights_to_lists,
    type_of_more,
    type_of_more_weights,
)

__all__ = ["MAX_ROWS", "decode_clicks", "encode_clicks"]

MAX_ROWS = 8192  # per click record
_OPTIONAL = frozenset({"label", "weight", MORE, KEY_WEIGHTS, MORE_WEIGHTS})


_TIME = pa.timestamp("ms", tz="UTC")


def _fixed_lists(flat: npt.NDArray[Any], kind: pa.DataType, num_rows: int) -> pa.Array:
    """The rows of a flat (B * width,) array as lists; `from_arrays` crashes on width 0 (SIGFPE in pyarrow 26)."""
    if not kind.list_size:
        return pa.array([[]] * num_rows, kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)


@lru_cache(maxsize=64)
def _clicks_schema(fields: tuple[Field, ...], dense_names: tuple[str, ...], optional: frozenset[str]) -> pa.Schema:
    """The columns of a record, with those of the optional ones that it has."""
    columns = [
        pa.field("label", pa.int8(), nullable=False),
        pa.field("dense", pa.list_(pa.float32(), len(dense_names)), nullable=False),
        pa.field("keys", pa.list_(pa.uint64(), len(fields)), nullable=False),
        pa.field("event_time", _TIME, nullable=False),
        pa.field("weight", pa.float32(), nullable=False),
        pa.field(MORE, type_of_more(), nullable=False),
        pa.field(KEY_WEIGHTS, pa.list_(pa.float32(), len(fields)), nullable=False),
        pa.field(MORE_WEIGHTS, type_of_more_weights(), nullable=False),
    ]
    return pa.schema(
        [column for column in columns if column.name not in _OPTIONAL or column.name in optional],
        metadata={"fields": fields_to_json(fields), "dense": json.dumps(dense_names)},
    )


def encode_clicks(batch: ClickBatch) -> bytes:
    """The rows as one Arrow IPC stream (columns and metadata as in the protocol)."""
    num_rows = batch.num_rows
    num_dense, num_fields = len(batch.dense_names), len(batch.fields)
    more = batch.more if batch.more is not None and len(batch.more.keys) else None
    has = {
        "label": batch.label is not None,
        "weight": batch.weight is not None,
        MORE: more is not None,
        KEY_WEIGHTS: batch.key_weights is not None,
        MORE_WEIGHTS: more is not None and batch.key_weights is not None,
    }
    schema = _clicks_schema(batch.fields, batch.dense_names, frozenset(name for name in has if has[name]))
    dense = np.ascontiguousarray(batch.dense, np.float32).reshape(num_rows * num_dense)
    keys = np.ascontiguousarray(batch.keys, np.uint64).reshape(num_rows * num_fields)
    columns = [
        *([] if batch.label is None else [pa.array(batch.label, pa.int8())]),
        _fixed_lists(dense, schema.field("dense").type, num_rows),
        _fixed_lists(keys, schema.field("keys").type, num_rows),
        pa.array(batch.event_time_ms).cast(_TIME),
        *([] if batch.weight is None else [pa.array(batch.weight, pa.float32())]),
        *([] if more is None else [more_to_lists(more)]),
    ]
    if batch.key_weights is not None:
        weights = np.ascontiguousarray(batch.key_weights, np.float32).reshape(num_rows * num_fields)
        columns.append(_fixed_lists(weights, schema.field(KEY_WEIGHTS).type, num_rows))
        columns += [] if more is None else [more_weights_to_lists(more)]
    return write_stream(schema, columns)


def decode_clicks(
    value: bytes | None,
    headers: Headers,
    *,
    fields: tuple[Field, ...] = CRITEO_FIELDS,
    dense_names: tuple[str, ...] = (),
) -> ClickBatch | BadRecord:
    """Decodes a click record: an Arrow batch, or a single click as JSON.

    Args:
        value: the record's value.
        headers: the record's headers; `content-type: application/json`, with any parameters, marks a single click.
        fields: the categorical columns of a single click (an Arrow batch names its own).
        dense_names: the dense columns of a single click.
    """
    if not value:
        return BadRecord("empty value, expected an Arrow IPC stream or a JSON click")
    try:
        if _is_json(value, read_headers(headers).get("content-type")):
            return click_from_json(value, fields, dense_names)
        batch = read_stream(value)
        if not 1 <= batch.num_rows <= MAX_ROWS:
            return BadRecord(f"{batch.num_rows} rows, expected 1 to {MAX_ROWS}")
        named = fields_from_metadata(batch.schema.metadata)
        dense = matrix_of(batch, "dense", pa.float32(), 4096)
        dense_names = _dense_names((batch.schema.metadata or {}).get(b"dense", b"null"), dense.shape[1])
        keys = matrix_of(batch, "keys", pa.uint64(), 255)
        label, weight = _column(batch, "label", pa.int8()), _column(batch, "weight", pa.float32())
        event_time = column_of(batch, "event_time", _TIME).cast(pa.int64()).to_numpy()
        more = more_from_lists(batch, named)
        key_weights = _key_weights(batch, keys, more)
    except (ValueError, RecursionError, MemoryError) as error:
        return BadRecord(f"{type(error).__name__}: {error}")
    problem = _problem_with_clicks(named, keys, label, event_time) or _problem_with_weights(weight)
    if problem is not None:
        return BadRecord(problem)
    return ClickBatch(
        label=label,
        dense=dense,
        keys=keys,
        event_time_ms=event_time,
        fields=named,
        dense_names=dense_names,
        weight=weight,
        more=_weighted(more) if key_weights is not None else more,
        key_weights=key_weights,
    )


def _key_weights(batch: pa.RecordBatch, keys: Keys, more: MoreValues | None) -> Weights | None:
    """The weights (B, F) of the first values; 1 if only further values have some, None if none have.

    Raises:
        ValueError: the column has another type or width, nulls, or a weight that is not finite.
    """
    if KEY_WEIGHTS not in batch.schema.names:
        return None if more is None or more.weights is None else np.ones(keys.shape, np.float32)
    weights = matrix_of(batch, KEY_WEIGHTS, pa.float32(), 255)
    if weights.shape != keys.shape or not np.isfinite(weights).all():
        raise ValueError(f"column {KEY_WEIGHTS!r}: expected {keys.shape[1]} finite numbers a row, one for each key")
    return weights


def _weighted(more: MoreValues | None) -> MoreValues | None:
    if more is None or more.weights is not None:
        return more
    return replace(more, weights=np.ones(len(more.keys), np.float32))


def _column(batch: pa.RecordBatch, name: str, kind: pa.DataType) -> npt.NDArray[Any] | None:
    """A column that may be absent."""
    return None if batch.schema.get_field_index(name) < 0 else column_of(batch, name, kind).to_numpy()


def _is_json(value: bytes, content_type: bytes | None) -> bool:
    """Whether the header names JSON; its parameters (`; charset=utf-8`), upper case and spaces do not matter.

    Raises:
        ValueError: the header names another type than JSON and Arrow, or the value is JSON without the header.
    """
    if content_type is None:
        if value.startswith(b"{"):
            raise ValueError("got a JSON object without the header content-type: application/json, expected both")
        return False
    kind = content_type.partition(b";")[0].strip().lower()
    if kind not in (JSON, ARROW):
        expected = f"{JSON.decode()} or {ARROW.decode()}"
        raise ValueError(f"header 'content-type': got {content_type[:100]!r}, expected {expected}")
    return kind == JSON


@lru_cache(maxsize=64)
def _dense_names(listed: bytes, num_dense: int) -> tuple[str, ...]:
    """The names in the schema metadata `dense`, by default I1, I2 and so on.

    Raises:
        ValueError: they are malformed, or their number is not that of the column.
    """
    names = json.loads(listed)
    if names is None:
        return tuple(f"I{number}" for number in range(1, num_dense + 1))
    if not isinstance(names, list) or len(names) != num_dense:
        raise ValueError(f"metadata 'dense': got {str(names)[:200]}, expected a list of {num_dense} names")
    wrong = next((name for name in names if not isinstance(name, str) or not name.isprintable()), None)
    if wrong is not None:
        raise ValueError(f"metadata 'dense': got {str(wrong)[:100]!r}, expected names of printable characters")
    return tuple(names)


def _problem_with_clicks(
    fields: tuple[Field, ...], keys: Keys, label: npt.NDArray[np.int8] | None, event_time_ms: npt.NDArray[np.int64]
) -> str | None:
    """The reason why keys (B, F), labels or times (B,) are invalid for these fields; None if they are valid."""
    if len(fields) != keys.shape[1]:
        return f"column 'keys': {keys.shape[1]} values a row, expected {len(fields)}, one for each field"
    problem = find_misplaced(keys, fields)
    if problem is not None:
        return problem
    if label is not None and np.any((label != 0) & (label != 1)):
        return "column 'label': got other values, expected 0 or 1"
    if event_time_ms.min() < 0 or event_time_ms.max() > MAX_TIME_MS:
        return "column 'event_time': got a time before 1970 or after 9999, expected a date between"
    return None


def _problem_with_weights(weight: npt.NDArray[np.float32] | None) -> str | None:
    if weight is None or (np.isfinite(weight) & (weight >= 0)).all():
        return None
    return "column 'weight': got other values, expected finite numbers, 0 or more"
