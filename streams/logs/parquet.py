"""Parses Parquet files into rows according to a log schema: columns by name, rows numbered from 1.

A column of kind `hex32` holds strings of 8 hex digits or integers below 2^32. A column of kind `hash` holds strings,
bytes, integers or booleans, which are hashed as the text of a delimited file. The time column holds Arrow timestamps
or the text or integers of a delimited file.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from streams.errors import ConfigError, InputError
from streams.escapes import escape
from streams.keys import MISSING, MISSING_WORD, Field, field_key
from streams.logs.delimited import PayloadCache
from streams.logs.lines import MAX_LINE_BYTES
from streams.logs.log_rows import BadLine, LogRows, take_rows
from streams.logs.schema import LogSchema
from streams.records import ClickBatch
from streams.records.headers import MAX_TIME_MS

__all__ = ["ParquetFile", "ParquetParser"]

_HEX_DIGITS = re.compile(rb"[0-9a-fA-F]{8}")
# What pyarrow was seen to raise for mutated files and cells.
_ARROW_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError, KeyError, TypeError, MemoryError)


class ParquetFile:
    """One Parquet file, read once from its start.

    Attributes:
        bytes_read: the size of the file times the fraction of its rows read so far.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.bytes_read = 0

    def column_types(self) -> dict[str, pa.DataType]:
        """The file's column names and types.

        Raises:
            InputError: the file is damaged.
        """
        try:
            schema = pq.read_schema(self._path)
            return {field.name: field.type for field in schema}
        except _ARROW_ERRORS as error:
            reason = escape(str(error))
            raise InputError(f"{self._path}: not a readable Parquet file ({reason}); write it again") from error

    def blocks(self, num_rows: int, columns: tuple[str, ...]) -> Iterator[tuple[int, pa.Table]]:
        """The file as (number of the first row, table of `num_rows` rows); the last table may be shorter.

        Raises:
            InputError: the file is damaged.
        """
        next_row, waiting, size_bytes = 1, [], self._path.stat().st_size
        try:
            with pq.ParquetFile(self._path) as file:
                for batch in file.iter_batches(batch_size=num_rows, columns=list(columns)):
                    waiting.append(batch)
                    while sum(len(batch) for batch in waiting) >= num_rows:
                        table = pa.Table.from_batches(waiting)
                        waiting = table.slice(num_rows).to_batches()
                        self.bytes_read = size_bytes * (next_row + num_rows - 1) // max(1, file.metadata.num_rows)
                        yield next_row, table.slice(0, num_rows)
                        next_row += num_rows
        except _ARROW_ERRORS as error:
            reason = escape(str(error))
            raise InputError(f"{self._path}: damaged after row {next_row - 1} ({reason}); write it again") from error
        self.bytes_read = size_bytes
        if waiting:
            yield next_row, pa.Table.from_batches(waiting)


class ParquetParser:
    """Parses tables of the given column types.

    Args:
        schema: the roles of the columns.
        types: the types of the file's columns, including those of the schema.
        where: the file's name, for messages.
        clock_ms: gives the event time of rows without a time column: by default the wall clock at parsing.

    Raises:
        ConfigError: a column's type does not fit its role in the schema; the message names the column.
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
        self._payloads = {field.name: PayloadCache() for field in schema.categorical}
        _require_types(schema, types, where)

    def parse(self, first_row: int, table: pa.Table) -> LogRows:
        """The rows of a table. Cost: O(size of the table), in time and memory.

        Raises:
            InputError: a column is damaged; the message names the rows and the column.
        """
        where = f"{self._where}, rows {first_row} to {first_row + table.num_rows - 1}"
        with _reading(where):
            table = table.combine_chunks()
        faults = _Faults(table)
        with _reading(f"{where}, column {self._schema.label!r}"):
            label = _floats(table.column(self._schema.label))
        faults.mark_bad(~np.isin(label, (0.0, 1.0)), self._schema.label, "Label", "0 or 1")
        dense = self._dense_columns(table, faults, where)
        keys = self._key_columns(table, faults, where)
        event_time_ms = self._event_times(table, faults, where)
        is_good = faults.is_good()
        batch = ClickBatch(
            label=np.where(is_good, np.nan_to_num(label), 0).astype(np.int8),
            dense=dense,
            keys=keys,
            event_time_ms=event_time_ms,
            fields=self._schema.categorical,
            dense_names=self._schema.dense,
        )
        lines = np.arange(first_row, first_row + table.num_rows)
        return LogRows(
            lines=lines[is_good],
            batch=batch if is_good.all() else take_rows(batch, is_good),
            bad=faults.bad_lines(first_row),
        )

    def _dense_columns(self, table: pa.Table, faults: _Faults, where: str) -> npt.NDArray[np.float32]:
        """(B, D) float32, NaN where null."""
        dense = np.empty((table.num_rows, len(self._schema.dense)), np.float32)
        for column, name in enumerate(self._schema.dense):
            with _reading(f"{where}, column {name!r}"):
                values = _floats(table.column(name))
            is_bad = np.abs(values) > np.finfo(np.float32).max
            faults.mark_bad(is_bad, name, "Number", "a finite number or null")
            with np.errstate(over="ignore"):
                dense[:, column] = values
        return dense

    def _key_columns(self, table: pa.Table, faults: _Faults, where: str) -> npt.NDArray[np.uint64]:
        """(B, F) keys."""
        keys = np.empty((table.num_rows, len(self._schema.categorical)), np.uint64)
        for column, field in enumerate(self._schema.categorical):
            with _reading(f"{where}, column {field.name!r}"):
                keys[:, column], is_bad = self._keys(column + 1, field, table.column(field.name))
            faults.mark_bad(is_bad, field.name, "Token", "8 hex digits or null")
        return keys

    def _event_times(self, table: pa.Table, faults: _Faults, where: str) -> npt.NDArray[np.int64]:
        """(B,) event times in ms."""
        if self._schema.time is None:
            return np.full(table.num_rows, self._clock_ms(), np.int64)
        with _reading(f"{where}, column {self._schema.time!r}"):
            times_ms = self._times(table.column(self._schema.time))
        expected = f"a time of format {self._schema.time_format!r}"
        faults.mark_bad((times_ms < 0) | (times_ms > MAX_TIME_MS), self._schema.time, "Time", expected)
        return times_ms

    def _keys(
        self, number: int, field: Field, column: pa.ChunkedArray
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
        """(B,) keys of a categorical column, and a (B,) mask of the tokens that are not of its kind."""
        base = field_key(number)
        if pa.types.is_null(column.type):
            return np.full(len(column), base | MISSING_WORD, np.uint64), np.zeros(len(column), np.bool_)
        encoded = column.combine_chunks()
        if not pa.types.is_dictionary(encoded.type):
            encoded = encoded.dictionary_encode()
        tokens, indices = encoded.dictionary, encoded.indices
        if field.kind == "hash":
            texts = tokens if pa.types.is_binary(tokens.type) else pc.cast(tokens, pa.string()).cast(pa.binary())
            payloads = [self._payloads[field.name][text or b""] for text in texts.to_pylist()]
        elif _is_text(tokens.type):
            texts = tokens.cast(pa.binary()).to_pylist()  # they need not be UTF-8
            payloads = [int(t, 16) if _HEX_DIGITS.fullmatch(t or b"") else -1 if t else MISSING for t in texts]
        else:
            payloads = [token if 0 <= int(token) < 1 << 32 else -1 for token in tokens.to_pylist()]
        null_index = len(payloads)  # a null's index: the payload behind those of the tokens
        by_index = np.array([*payloads, MISSING], np.int64)
        chosen = by_index[pc.fill_null(indices.cast(pa.int64()), null_index).to_numpy(zero_copy_only=False)]
        return np.where(chosen < 0, MISSING, chosen).astype(np.uint64) | base, chosen < 0

    def _times(self, column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """(B,) event times in ms, negative where the cell is not a time."""
        if pa.types.is_timestamp(column.type):
            return pc.fill_null(column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()), -1).to_numpy()
        parsed = [self._schema.parse_time_ms(_text(cell)) for cell in column.to_pylist()]
        return np.array([-1 if time_ms is None else time_ms for time_ms in parsed], np.int64)


class _Faults:
    """The malformed rows of a table, with the first fault of each."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._by_row: dict[int, tuple[str, str]] = {}  # index of the row -> (error, reason)

    def mark_bad(self, is_bad: npt.NDArray[np.bool_], name: str, error: str, expected: str) -> None:
        """Records a fault in column `name` for each row of a (B,) mask."""
        for row in np.flatnonzero(is_bad).tolist():
            got = escape(_shown(self._table.column(name)[row]), 60)
            self._by_row.setdefault(row, (error, f"column {name!r}: got {got!r}, expected {expected}"))

    def is_good(self) -> npt.NDArray[np.bool_]:
        """(B,) mask of the rows without a fault."""
        mask = np.ones(self._table.num_rows, np.bool_)
        mask[list(self._by_row)] = False
        return mask

    def bad_lines(self, first_row: int) -> tuple[BadLine, ...]:
        """The malformed rows in order; `first_row` is the number of the table's first row."""
        return tuple(
            BadLine(line=first_row + row, error=error, reason=reason, raw=_row_as_json(self._table, row))
            for row, (error, reason) in sorted(self._by_row.items())
        )


def _require_types(schema: LogSchema, types: dict[str, pa.DataType], where: str) -> None:
    """Refuses column types that do not fit the roles of the columns."""
    roles = [(name, "numbers", _is_number(types[name])) for name in (schema.label, *schema.dense)]
    for field in schema.categorical:
        fits = _is_text(types[field.name]) or _is_discrete(types[field.name])
        roles.append((field.name, "strings or integers", fits))
    if schema.time is not None:
        kind = types[schema.time]
        fits = pa.types.is_timestamp(kind) or _is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)
        roles.append((schema.time, "timestamps, strings or integers", fits))
    for name, expected, fits in roles:
        if not fits:
            raise ConfigError(f"{where}: column {name!r} of {schema} is {types[name]}, expected {expected}")


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    is_numeric = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    return bool(is_numeric or types.is_boolean(kind) or types.is_null(kind))


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind))


def _is_discrete(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind))


def _text(cell: object) -> str:
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """(B,) float64, NaN where null."""
    return column.cast(pa.float64(), safe=False).to_numpy()


def _row_as_json(table: pa.Table, row: int) -> bytes:
    cells = {name: _cell(column[row]) for name, column in zip(table.column_names, table.columns, strict=True)}
    return json.dumps(cells, default=str).encode()[:MAX_LINE_BYTES]


def _cell(scalar: pa.Scalar) -> Any:
    """The Python value of a cell, or the text that describes one that Python cannot hold."""
    if isinstance(scalar, pa.DictionaryScalar):
        scalar = scalar.value
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes().decode("utf-8", "backslashreplace")
    except (ValueError, OverflowError, TypeError):
        return f"{scalar.type} that is no Python value"


def _shown(scalar: pa.Scalar) -> str:
    return str(_cell(scalar))


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turns the errors of damaged columns into an `InputError` that names file, rows and column."""
    try:
        yield
    except _ARROW_ERRORS as error:
        reason = escape(f"{type(error).__name__}: {error}", 200)
        raise InputError(f"{what}: cannot be read ({reason}); write the file again") from error
