"""Parses Arrow tables into rows according to a log schema; the rows are numbered from 1.

A column of kind `hex32` holds strings of 8 hex digits or integers of 32 bits, signed or not. A column of kind `hash`
holds strings, bytes, integers, floating point numbers, decimals, dates, UUIDs or booleans, which are hashed as the text
of a delimited file. The time column holds timestamps, dates, numbers, or the text of a delimited file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from streams.errors import ConfigError, InputError
from streams.escapes import escape
from streams.keys import MISSING, Field, field_key
from streams.logs.columns import (
    describe_type,
    distinct_texts,
    floats_of,
    is_binary,
    is_list,
    read_column,
    type_of,
    values_of,
)
from streams.logs.faults import Faults
from streams.logs.log_rows import LogRows, take_rows
from streams.logs.schema import LogSchema
from streams.logs.texts import BAD_PAYLOAD, TEXTS_REMEDY, Payloads, number_remedy
from streams.logs.times import MAX_LOG_TIME_MS, UNITS, describe_bad_time, numbers_to_ms
from streams.logs.value_lists import MAX_VALUES, WEIGHTS_EXPECTED, FurtherValues, flatten_lists, match_weights
from streams.records import ClickBatch

__all__ = ["ARROW_ERRORS", "TableParser"]

# What pyarrow was seen to raise for mutated files and cells.
ARROW_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError, KeyError, TypeError, MemoryError)
_MAX_FLOAT32 = np.finfo(np.float32).max
_BAD_LABEL = -1


class TableParser:
    """Parses tables of the given column types.

    Args:
        schema: the roles of the columns.
        types: the types of the file's columns, including those of the schema.
        where: the file's name, for messages.
        clock_ms: gives the event time of rows without a time column: by default the wall clock at parsing.

    Attributes:
        tokens: token -> payload of the tokens that were hashed lately, by the index of their field.

    Raises:
        ConfigError: a column is missing, or its type does not fit its role in the schema; the message names the column.
    """

    def __init__(
        self,
        schema: LogSchema,
        types: dict[str, pa.DataType],
        where: str,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._schema, self._where = schema, where
        self._clock_ms = clock_ms
        self.tokens = {index: Payloads(field, schema.missing) for index, field in enumerate(schema.categorical)}
        found = {name: type_of(name, types) for name in schema.used_columns}
        schema.require_columns([*types, *(name for name, kind in found.items() if kind is not None)], where)
        _require_types(schema, {name: kind for name, kind in found.items() if kind is not None}, where)

    def parse(self, first_row: int, table: pa.Table, faults: Faults | None = None) -> LogRows:
        """The rows of a table. Cost: O(size of the table), in time and memory.

        Args:
            first_row: the number of the first row.
            table: the rows.
            faults: the faults of rows that are known before.

        Raises:
            InputError: a column is damaged; the message names the rows and the column.
        """
        columns = _Columns(table, f"{self._where}, rows {first_row} to {first_row + table.num_rows - 1}")
        faults = faults or Faults(table)
        label, weight = self._labels(columns, faults), self._weights(columns, faults)
        dense = self._dense_columns(columns, faults)
        more = FurtherValues(columns.num_rows, len(self._schema.categorical))
        keys = self._key_columns(columns, faults, more)
        event_time_ms = self._event_times(columns, faults)
        is_good = faults.is_good()
        batch = ClickBatch(
            label=label,
            dense=dense,
            keys=keys,
            event_time_ms=event_time_ms,
            fields=self._schema.categorical,
            dense_names=self._schema.dense,
            weight=weight,
            more=more.collected(),
            key_weights=more.key_weights,
        )
        lines = np.arange(first_row, first_row + table.num_rows)
        return LogRows(
            lines=lines[is_good],
            batch=batch if is_good.all() else take_rows(batch, is_good),
            bad=faults.bad_lines(first_row),
        )

    def _labels(self, columns: _Columns, faults: Faults) -> npt.NDArray[np.int8] | None:
        """(B,) labels, 0 where the row is bad; None if the log has none."""
        name = self._schema.label
        if name is None:
            return None
        with columns.reading(name) as column:
            texts, indices = distinct_texts(column)
        rule = self._schema.label_rule
        parsed = [rule.parse(text.decode("utf-8", "replace")) for text in texts]
        labels = np.array([_BAD_LABEL if label is None else label for label in parsed], np.int8)[indices]
        faults.mark_bad(labels == _BAD_LABEL, name, "Label", rule.expected)
        return np.maximum(labels, 0)

    def _weights(self, columns: _Columns, faults: Faults) -> npt.NDArray[np.float32] | None:
        """(B,) weights; None if the log has none."""
        name = self._schema.weight
        if name is None:
            return None
        with columns.reading(name) as column:
            values, is_bad = floats_of(column)
        faults.mark_bad(
            is_bad | ~((values >= 0) & (values <= _MAX_FLOAT32)),
            name,
            "Weight",
            lambda cell: "a finite number, 0 or more" + number_remedy(cell),
        )
        return _to_float32(values)

    def _dense_columns(self, columns: _Columns, faults: Faults) -> npt.NDArray[np.float32]:
        """(B, D) float32, NaN where null."""
        dense = np.empty((columns.num_rows, len(self._schema.dense)), np.float32)
        for number, name in enumerate(self._schema.dense):
            with columns.reading(name) as column:
                values, is_bad = floats_of(column)
            faults.mark_bad(
                is_bad | (np.abs(values) > _MAX_FLOAT32),
                name,
                "Number",
                lambda cell: "a finite number or null" + number_remedy(cell, TEXTS_REMEDY),
            )
            dense[:, number] = _to_float32(values)
        return dense

    def _key_columns(self, columns: _Columns, faults: Faults, more: FurtherValues) -> npt.NDArray[np.uint64]:
        """(B, F) keys; collects the further values of lists."""
        keys = np.empty((columns.num_rows, len(self._schema.categorical)), np.uint64)
        for index, (field, name) in enumerate(zip(self._schema.categorical, self._schema.field_columns, strict=True)):
            with columns.reading(name) as column:
                if field.name in self._schema.lists or index in self._schema.weight_columns:
                    payloads = self._take_values(index, columns, column, faults, more)
                else:
                    payloads = self._find_payloads(index, field, column)
            faults.mark_bad(payloads == BAD_PAYLOAD, name, "Token", lambda _: "8 hex digits or null")
            keys[:, index] = payloads.view(np.uint64) | field_key(index + 1)
        return keys

    def _take_values(
        self, index: int, columns: _Columns, column: pa.Array, faults: Faults, more: FurtherValues
    ) -> npt.NDArray[np.int64]:
        """(B,) payloads of the first values; `BAD_PAYLOAD` if a value of the row is not of its kind."""
        schema, name = self._schema, self._schema.field_columns[index]
        values, counts = self._flatten(index, column)
        payloads = self._find_payloads(index, schema.categorical[index], values)
        weights = None
        if index in schema.weight_columns:
            with columns.reading(schema.weight_columns[index]) as weight_column:
                texts, number_counts = self._flatten(index, weight_column)
                numbers, _ = floats_of(texts)
            weights, is_bad = match_weights(payloads, counts, numbers, number_counts)
            faults.mark_bad(is_bad, schema.weight_columns[index], "Weight", lambda _: WEIGHTS_EXPECTED)
        rows = np.repeat(np.arange(len(counts)), counts)  # (V,)
        first = more.take(index, rows, payloads, weights)
        first[rows[payloads == BAD_PAYLOAD]] = BAD_PAYLOAD
        faults.mark_bad(counts > MAX_VALUES, name, "Values", lambda _: f"at most {MAX_VALUES} values in a list")
        return first

    def _flatten(self, index: int, column: pa.Array) -> tuple[pa.Array, npt.NDArray[np.int64]]:
        """The values (V,) of a field or of its weights, and (B,) the number of each row's."""
        if self._schema.categorical[index].name in self._schema.lists:
            return flatten_lists(column)
        return column, np.ones(len(column), np.int64)

    def _find_payloads(self, index: int, field: Field, column: pa.Array) -> npt.NDArray[np.int64]:
        """(B,) payloads of a categorical column; `BAD_PAYLOAD` for tokens that are not of its kind."""
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if field.kind == "hex32" and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            values, indices = values_of(column)
            payloads = [_hex_payload(value, is_signed=kind == pa.int32()) for value in values.to_pylist()]
            return np.array([*payloads, MISSING], np.int64)[indices]
        texts, indices = distinct_texts(column)
        return np.array([self.tokens[index][text] for text in texts], np.int64)[indices]

    def _event_times(self, columns: _Columns, faults: Faults) -> npt.NDArray[np.int64]:
        """(B,) event times in ms."""
        name, time_format = self._schema.time, self._schema.time_format
        if name is None:
            return np.full(columns.num_rows, self._clock_ms(), np.int64)
        with columns.reading(name) as column:
            times_ms = self._times(column)
        faults.mark_bad(
            (times_ms < 0) | (times_ms > MAX_LOG_TIME_MS),
            name,
            "Time",
            lambda cell: describe_bad_time(cell, time_format),
        )
        return times_ms

    def _times(self, column: pa.Array) -> npt.NDArray[np.int64]:
        """(B,) event times in ms, negative where the cell is not a time."""
        kind, time_format = column.type, self._schema.time_format
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            stamps = column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
            return pc.fill_null(stamps, -1).to_numpy(zero_copy_only=False)
        if time_format in UNITS and pa.types.is_integer(kind):
            return numbers_to_ms(
                pc.fill_null(column.cast(pa.int64(), safe=False), -1).to_numpy(zero_copy_only=False), time_format
            )
        if time_format in UNITS and (pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            return numbers_to_ms(floats_of(column)[0], time_format)
        texts, indices = distinct_texts(column)
        parsed = [self._schema.parse_time_ms(text.decode("utf-8", "replace")) for text in texts]
        return np.array([-1 if time_ms is None else time_ms for time_ms in parsed], np.int64)[indices]


class _Columns:
    """The columns of a table; errors name the rows and the column."""

    def __init__(self, table: pa.Table, where: str) -> None:
        self._table, self._where = table, where
        self.num_rows: int = table.num_rows

    @contextmanager
    def reading(self, name: str) -> Iterator[pa.Array]:
        """Gives a column; the errors of a damaged one become an `InputError`."""
        try:
            yield read_column(self._table, name)
        except ARROW_ERRORS as error:
            reason = escape(f"{type(error).__name__}: {error}", 200)
            raise InputError(
                f"{self._where}, column {name!r}: cannot be read ({reason}); write the file again"
            ) from error


def _to_float32(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)


def _hex_payload(value: float | None, *, is_signed: bool) -> int:
    """The payload of 32 bits that are stored as a number; a negative one has the same bits."""
    if value is None or value != value:  # noqa: PLR0124  NaN
        return MISSING
    if value != int(value) or not (-(1 << 31) if is_signed else 0) <= value < 1 << 32:
        return BAD_PAYLOAD
    return int(value) & 0xFFFFFFFF


def _require_types(schema: LogSchema, types: dict[str, pa.DataType], where: str) -> None:
    """Refuses column types that do not fit the roles of the columns."""
    single = [name for name in (schema.label, schema.weight) if name is not None]
    roles = [(name, name, "numbers", _is_number(types[name])) for name in (*single, *schema.dense)]
    for field, name in zip(schema.categorical, schema.field_columns, strict=True):
        roles.append((name, field.name, *_category(types[name], holds_lists=field.name in schema.lists)))
    for index, name in schema.weight_columns.items():
        field = schema.categorical[index]
        roles.append((name, field.name, *_weights(types[name], holds_lists=field.name in schema.lists)))
    if schema.time is not None:
        kind = types[schema.time]
        fits = pa.types.is_timestamp(kind) or pa.types.is_date(kind) or _is_number(kind)
        roles.append((schema.time, schema.time, "timestamps, dates, strings or numbers", fits))
    for column, name, expected, fits in roles:
        if not fits:
            remedy = describe_type(types[column], column, name)
            got = escape(str(types[column]), 100)
            raise ConfigError(f"{where}: column {column!r} of {schema} is {got}, expected {expected}{remedy}")


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    is_numeric = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind)
    return bool(is_numeric or types.is_null(kind) or types.is_string(kind) or types.is_large_string(kind)) or is_binary(
        kind
    )


def _category(kind: pa.DataType, *, holds_lists: bool) -> tuple[str, bool]:
    """What a categorical column is expected to hold, and whether it does."""
    expected = "strings, numbers, dates or booleans"
    if not holds_lists:
        return expected, _is_category(kind)
    return f"lists of {expected}; leave out list = true", is_list(kind) and _is_category(kind.value_type)


def _weights(kind: pa.DataType, *, holds_lists: bool) -> tuple[str, bool]:
    """What a column of values' weights is expected to hold, and whether it does."""
    if not holds_lists:
        return "numbers", _is_number(kind)
    return "lists of numbers", is_list(kind) and _is_number(kind.value_type)


def _is_category(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if isinstance(kind, pa.BaseExtensionType):
        return True  # a UUID; other extensions are read as what they are stored as
    return not is_list(kind) and (_is_number(kind) or bool(pa.types.is_date(kind)))
