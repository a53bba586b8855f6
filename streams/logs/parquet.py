"""Rows out of Parquet files, by a log schema: columns are found by name, the `line` of a row is its number from 1 on.

Hex tokens may be strings of 8 hex digits or integers below 2^32; other categories strings, bytes, integers or
booleans, hashed as the text that a delimited file would hold; the time an Arrow timestamp, or what a delimited file
would hold.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from streams.errors import ConfigError, InputError
from streams.keys import MISSING, Field, field_key
from streams.logs.delimited import PayloadCache
from streams.logs.lines import MAX_LINE_BYTES
from streams.logs.log_rows import BadLine, LogRows, take_rows
from streams.logs.schema import LogSchema
from streams.records import ClickBatch

__all__ = ["ParquetFile", "ParquetParser"]

_HEX_DIGITS = "^[0-9a-fA-F]{8}$"


class ParquetFile:
    """One Parquet file, read once from its start.

    Attributes:
        bytes_read: how much of the file has been read, by its share of rows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.bytes_read = 0

    def column_types(self) -> dict[str, pa.DataType]:
        """The file's columns.

        Raises:
            InputError: the file is damaged.
        """
        try:
            schema = pq.read_schema(self._path)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self._path}: no readable Parquet file ({error}); write it again") from error
        return {field.name: field.type for field in schema}

    def blocks(self, num_rows: int, columns: tuple[str, ...]) -> Iterator[tuple[int, pa.Table]]:
        """(number of the first row, table) of each `num_rows` rows; the last table may be shorter.

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
                        self.bytes_read = size_bytes * (next_row + num_rows - 1) // file.metadata.num_rows
                        yield next_row, table.slice(0, num_rows)
                        next_row += num_rows
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self._path}: damaged after row {next_row - 1} ({error}); write it again") from error
        self.bytes_read = size_bytes
        if waiting:
            yield next_row, pa.Table.from_batches(waiting)


class ParquetParser:
    """Parses tables of the given column types.

    Args:
        schema: what the columns mean.
        types: the columns of the file; those of the schema are among them.
        where: the file's name, for messages.
        clock_ms: the event time of rows without a time column: the wall clock when they are parsed.

    Raises:
        ConfigError: a column's type cannot be what the schema says; the message names the column.
    """

    def __init__(
        self,
        schema: LogSchema,
        types: dict[str, pa.DataType],
        where: str,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._schema = schema
        self._clock_ms = clock_ms
        self._payloads = {field.name: PayloadCache() for field in schema.categorical}
        for name in (schema.label, *schema.dense):
            if not _is_number(types[name]):
                raise ConfigError(f"{where}: column {name!r} of {schema} is {types[name]}, expected numbers")
        for field in schema.categorical:
            if not (_is_text(types[field.name]) or _is_discrete(types[field.name])):
                raise ConfigError(
                    f"{where}: column {field.name!r} of {schema} is {types[field.name]}, expected strings or integers"
                )
        if schema.time is not None:
            kind = types[schema.time]
            if not (pa.types.is_timestamp(kind) or _is_text(kind) or pa.types.is_integer(kind)):
                raise ConfigError(f"{where}: column {schema.time!r} of {schema} is {kind}, expected a time")

    def parse(self, first_row: int, table: pa.Table) -> LogRows:
        """The rows of a table; memory and time O(its size)."""
        table = table.combine_chunks()
        num_rows, schema = table.num_rows, self._schema
        faults: dict[int, tuple[str, str]] = {}  # position -> error, reason; the first fault of a row stays

        def blame(is_bad: npt.NDArray[np.bool_], name: str, error: str, expected: str) -> None:
            for position in np.flatnonzero(is_bad).tolist():
                got = table.column(name)[position].as_py()
                faults.setdefault(position, (error, f"column {name!r}: got {str(got)[:60]!r}, expected {expected}"))

        labels = _floats(table.column(schema.label))
        blame(~np.isin(labels, (0.0, 1.0)), schema.label, "Label", "0 or 1")
        dense = np.empty((num_rows, len(schema.dense)), np.float32)  # (B, D)
        for place, name in enumerate(schema.dense):
            values = _floats(table.column(name))
            blame(np.abs(values) > np.finfo(np.float32).max, name, "Number", "a finite number or nothing")
            with np.errstate(over="ignore"):
                dense[:, place] = values
        keys = np.empty((num_rows, len(schema.categorical)), np.uint64)  # (B, F)
        for place, field in enumerate(schema.categorical):
            keys[:, place], is_bad = self._keys(place + 1, field, table.column(field.name))
            blame(is_bad, field.name, "Token", "8 hex digits or nothing")
        times_ms = np.full(num_rows, self._clock_ms(), np.int64)
        if schema.time is not None:
            times_ms, is_bad = self._times(table.column(schema.time))
            blame(is_bad, schema.time, "Time", f"a time of format {schema.time_format!r}")
        good = np.ones(num_rows, np.bool_)
        good[list(faults)] = False
        batch = ClickBatch(
            label=np.where(good, np.nan_to_num(labels), 0).astype(np.int8),
            dense=dense,
            keys=keys,
            event_time_ms=times_ms,
            fields=schema.categorical,
            dense_names=schema.dense,
        )
        bad = tuple(
            BadLine(line=first_row + position, error=error, reason=reason, raw=_row_as_json(table, position))
            for position, (error, reason) in sorted(faults.items())
        )
        lines = np.arange(first_row, first_row + num_rows)
        return LogRows(lines=lines[good], batch=take_rows(batch, good) if bad else batch, bad=bad)

    def _keys(
        self, number: int, field: Field, column: pa.ChunkedArray
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
        """(B,) keys of a categorical column, and where it holds no token of its kind."""
        base = field_key(number)
        encoded = column.combine_chunks()
        if not pa.types.is_dictionary(encoded.type):
            encoded = encoded.dictionary_encode()
        tokens, indices = encoded.dictionary, encoded.indices
        if field.kind == "hash":
            texts = tokens if pa.types.is_binary(tokens.type) else pc.cast(tokens, pa.string()).cast(pa.binary())
            found = [self._payloads[field.name][text or b""] for text in texts.to_pylist()]
        elif _is_text(tokens.type):
            texts = pc.cast(tokens, pa.string())
            fits = pc.match_substring_regex(texts, _HEX_DIGITS).to_pylist()
            found = [
                int(t, 16) if fit else -1 if t else MISSING for t, fit in zip(texts.to_pylist(), fits, strict=True)
            ]
        else:
            found = [token if 0 <= int(token) < 1 << 32 else -1 for token in tokens.to_pylist()]
        payloads = np.array([*found, MISSING], np.int64)  # the last is where an index is null
        chosen = payloads[pc.fill_null(indices.cast(pa.int64()), len(found)).to_numpy(zero_copy_only=False)]
        return np.where(chosen < 0, MISSING, chosen).astype(np.uint64) | base, chosen < 0

    def _times(self, column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """(B,) event times, and where there is none."""
        if pa.types.is_timestamp(column.type):
            times = pc.fill_null(column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()), -1).to_numpy()
            return times, times < 0
        parsed = [self._schema.parse_time_ms(_text(cell)) for cell in column.to_pylist()]
        times = np.array([-1 if time_ms is None else time_ms for time_ms in parsed], np.int64)
        return times, times < 0


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind))


def _is_discrete(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _text(cell: object) -> str:
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """(B,) float64, NaN where null."""
    return column.cast(pa.float64(), safe=False).to_numpy()


def _row_as_json(table: pa.Table, position: int) -> bytes:
    row: dict[str, Any] = table.slice(position, 1).to_pylist()[0]
    return json.dumps(row, default=str).encode()[:MAX_LINE_BYTES]
