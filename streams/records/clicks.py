"""Click records: an Arrow batch of rows, or a single click as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.keys import CRITEO_FIELDS, Field, Keys, make_key
from streams.records.arrow import column_of, fields_from_metadata, fields_to_json, matrix_of, read_stream, write_stream
from streams.records.headers import ARROW, JSON, MAX_TIME_MS, BadRecord, Headers, check_time, read_headers
from streams.records.key_checks import find_misplaced
from streams.records.more_values import MORE, MoreValues, more_from_lists, more_to_lists, type_of_more

__all__ = ["MAX_ROWS", "NO_LABELS", "ClickBatch", "decode_clicks", "encode_clicks"]

MAX_ROWS = 8192  # per click record
NO_LABELS = (
    "the rows have no labels, expected 0 or 1 in each, from which a model learns; replay a log whose schema names a "
    "label, or join the labels to the rows first (docs/schema.md)"
)
_MAX_FLOAT32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class ClickBatch:
    """Rows of a click log.

    Attributes:
        label: (B,) int8, 0 or 1; None if the rows have none.
        dense: (B, D) float32, NaN where missing.
        keys: (B, F) uint64 feature keys; column f holds field number f + 1.
        event_time_ms: (B,) int64, milliseconds since 1970, UTC.
        fields: F categorical columns.
        dense_names: D dense columns.
        weight: (B,) float32, finite and not negative, each row's share of the loss; None if all weigh 1.
        more: the second and further values of fields; None if every field has one value in every row.
    """

    label: npt.NDArray[np.int8] | None
    dense: npt.NDArray[np.float32]
    keys: Keys
    event_time_ms: npt.NDArray[np.int64]
    fields: tuple[Field, ...]
    dense_names: tuple[str, ...]
    weight: npt.NDArray[np.float32] | None = None
    more: MoreValues | None = None

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.event_time_ms)

    @property
    def every_key(self) -> Keys:
        """The keys of all values, each as often as it occurs: `keys`, or (B F + M,) with further values."""
        if self.more is None:
            return self.keys
        return np.concatenate([self.keys.reshape(-1), self.more.keys])

    def require_labels(self) -> npt.NDArray[np.int8]:
        """The (B,) labels.

        Raises:
            ValueError: the rows have none.
        """
        if self.label is None:
            raise ValueError(NO_LABELS)
        return self.label


_TIME = pa.timestamp("ms", tz="UTC")


def _fixed_lists(flat: npt.NDArray[Any], kind: pa.DataType, num_rows: int) -> pa.Array:
    """The rows of a flat (B * width,) array as lists; `from_arrays` crashes on width 0 (SIGFPE in pyarrow 26)."""
    if not kind.list_size:
        return pa.array([[]] * num_rows, kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)


@lru_cache(maxsize=64)
def _clicks_schema(
    fields: tuple[Field, ...], dense_names: tuple[str, ...], has_label: bool, has_weight: bool, has_more: bool
) -> pa.Schema:
    return pa.schema(
        [
            *([pa.field("label", pa.int8(), nullable=False)] if has_label else []),
            pa.field("dense", pa.list_(pa.float32(), len(dense_names)), nullable=False),
            pa.field("keys", pa.list_(pa.uint64(), len(fields)), nullable=False),
            pa.field("event_time", _TIME, nullable=False),
            *([pa.field("weight", pa.float32(), nullable=False)] if has_weight else []),
            *([pa.field(MORE, type_of_more(), nullable=False)] if has_more else []),
        ],
        metadata={"fields": fields_to_json(fields), "dense": json.dumps(dense_names)},
    )


def encode_clicks(batch: ClickBatch) -> bytes:
    """The rows as one Arrow IPC stream (columns and metadata as in the protocol)."""
    num_rows = batch.num_rows
    num_dense, num_fields = len(batch.dense_names), len(batch.fields)
    more = batch.more if batch.more is not None and len(batch.more.keys) else None
    schema = _clicks_schema(
        batch.fields, batch.dense_names, batch.label is not None, batch.weight is not None, more is not None
    )
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
            return _click_from_json(value, fields, dense_names)
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
        more=more,
    )


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


def _click_from_json(value: bytes, fields: tuple[Field, ...], dense_names: tuple[str, ...]) -> ClickBatch:
    """One row from `{"label":1,"dense":{"I1":2.0},"features":{"C1":"68fd1e64"},"event_time_ms":1700000000000}`."""
    if len(value) > 1 << 16:
        raise ValueError(f"{len(value)} bytes, expected a single click of at most 65536")
    click = json.loads(value)
    if not isinstance(click, dict) or click.get("label") not in (0, 1, None):
        raise ValueError('expected an object with "label": 0 or 1, or without a label')
    label, weight = click.get("label"), click.get("weight")
    if weight is not None and not (isinstance(weight, int | float) and 0 <= weight <= _MAX_FLOAT32):
        raise ValueError(f'"weight": got {str(weight)[:100]}, expected a finite number, 0 or more')
    dense, features = click.get("dense", {}), click.get("features")
    if not isinstance(dense, dict) or not isinstance(features, dict):
        raise ValueError('expected objects "dense" and "features" of name: value')
    unknown = (set(dense) - set(dense_names)) | (set(features) - {field.name for field in fields})
    if unknown:
        raise ValueError(f"column {min(unknown)!r} is not in the schema")
    event_time_ms = click.get("event_time_ms")
    if type(event_time_ms) is not int:
        raise ValueError('expected an integer "event_time_ms"')
    check_time(event_time_ms, '"event_time_ms"')
    numbers = [dense.get(name) for name in dense_names]
    if not all(
        number is None or (isinstance(number, int | float) and not abs(number) > _MAX_FLOAT32) for number in numbers
    ):
        raise ValueError('"dense": expected numbers of float32 or null')
    found = [_keys_from_json(n, field, features.get(field.name)) for n, field in enumerate(fields, 1)]
    more = [key for keys in found for key in keys[1:]]
    return ClickBatch(
        label=None if label is None else np.array([label], np.int8),
        dense=np.array([[np.nan if x is None else x for x in numbers]], np.float32).reshape(1, len(numbers)),
        keys=np.array([[keys[0] for keys in found]], np.uint64),
        event_time_ms=np.array([event_time_ms], np.int64),
        fields=fields,
        dense_names=dense_names,
        weight=None if weight is None else np.array([weight], np.float32),
        more=MoreValues(offsets=np.array([0, len(more)]), keys=np.array(more, np.uint64)) if more else None,
    )


def _keys_from_json(number: int, field: Field, value: Any) -> list[int]:
    """The keys of a field's value or list of values, at least one; nulls and empty strings of a list are left out.

    Raises:
        ValueError: a value is not a string, or not one of the field's kind.
    """
    values = value if isinstance(value, list) else [value]
    if not all(one is None or isinstance(one, str) for one in values):
        raise ValueError('"features": expected strings, lists of strings, or null')
    return [make_key(number, field.kind, token) for token in values if token] or [make_key(number, field.kind, "")]
