"""Parses blocks of delimited lines into rows according to a log schema."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from streams.keys import MISSING, field_key, hash_token
from streams.logs.cells import (
    DENSE,
    FAULT_COLUMNS,
    FAULT_LABEL,
    FAULT_LENGTH,
    FAULT_NONE,
    FAULT_NUMBER,
    FAULT_TIME,
    FAULT_TOKEN,
    HEX,
    LABEL,
    SPAN,
    parse_lines,
)
from streams.logs.lines import MAX_LINE_BYTES, LineBlock
from streams.logs.log_rows import BadLine, LogRows, take_rows
from streams.logs.schema import LogSchema
from streams.records import ClickBatch

__all__ = ["DelimitedParser", "PayloadCache", "parse_number"]

_MAX_CACHED_TOKENS = 1 << 18
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
# fault code -> `BadLine.error`
_ERRORS = {
    FAULT_COLUMNS: "Columns",
    FAULT_LABEL: "Label",
    FAULT_NUMBER: "Number",
    FAULT_TOKEN: "Token",
    FAULT_LENGTH: "Length",
    FAULT_TIME: "Time",
}
_EXPECTED = {
    FAULT_LABEL: "0 or 1",
    FAULT_NUMBER: "a finite decimal number or an empty cell",
    FAULT_TOKEN: "8 hex digits or an empty cell",
}


class PayloadCache(dict[bytes, int]):
    """Token -> payload; hashes a token at its first lookup. Tokens repeat, and a hit costs a third of a hash."""

    def __missing__(self, token: bytes) -> int:
        if len(self) >= _MAX_CACHED_TOKENS:
            self.clear()
        payload = hash_token(token) if token else MISSING
        self[token] = payload
        return payload


def parse_number(cell: bytes) -> float | None:
    """The value of a decimal cell; None if the cell is not a number, or one that is not finite as float32."""
    if b"_" in cell or cell != cell.strip():  # Python's float accepts underscores and spaces
        return None
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if abs(value) <= _MAX_FLOAT32 else None


class DelimitedParser:
    """Parses blocks of lines that have the given columns.

    Args:
        schema: the roles of the columns.
        columns: all columns of a line, in order, including those of the schema.
        clock_ms: gives the event time of rows without a time column: by default the wall clock at parsing.
    """

    def __init__(
        self,
        schema: LogSchema,
        columns: Sequence[str],
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._schema = schema
        self._columns = list(columns)
        self._clock_ms = clock_ms
        self._roles = np.full((len(columns), 4), -1, np.int32)
        self._hashed: list[tuple[int, int, PayloadCache]] = []  # (index of the field, of the span, payloads)
        self._num_spans = 0
        for column, name in enumerate(columns):
            self._set_roles(column, name)
        self._time_column = -1 if schema.time is None else self._columns.index(schema.time)
        self._times_ms: dict[bytes, int] = {}

    def _set_roles(self, column: int, name: str) -> None:
        schema, roles = self._schema, self._roles[column]
        if name == schema.label:
            roles[LABEL] = 0
        if name in schema.dense:
            roles[DENSE] = schema.dense.index(name)
        for index, field in enumerate(schema.categorical):
            if field.name == name and field.kind == "hex32":
                roles[HEX] = index
            elif field.name == name:
                self._hashed.append((index, self._num_spans, PayloadCache()))
                roles[SPAN] = self._num_spans
                self._num_spans += 1
        if name == schema.time and roles[SPAN] < 0:
            roles[SPAN] = self._num_spans
            self._num_spans += 1

    def parse(self, block: LineBlock) -> LogRows:
        """The rows of a block. Cost: O(bytes of the block), in time and memory."""
        num_lines = block.num_lines
        label = np.zeros(num_lines, np.int8)  # (L,)
        dense = np.empty((num_lines, len(self._schema.dense)), np.float32)  # (L, D)
        keys = np.zeros((num_lines, len(self._schema.categorical)), np.uint64)  # (L, F)
        spans = np.zeros((num_lines, self._num_spans, 2), np.int32)  # (L, S, 2)
        unread = np.empty((dense.size, 4), np.int32)
        faults = np.empty((num_lines, 2), np.int32)
        num_unread = parse_lines(
            np.frombuffer(block.data, np.uint8),
            block.starts,
            block.ends,
            ord(self._schema.delimiter),
            MAX_LINE_BYTES,
            self._roles,
            label,
            dense,
            keys,
            spans,
            unread,
            faults,
        )
        self._parse_numbers(block.data, unread[:num_unread], dense, faults)
        for index, span, payloads in self._hashed:
            tokens = _cells(block.data, spans[:, span])
            base = field_key(index + 1)
            keys[:, index] = np.fromiter(map(payloads.__getitem__, tokens), np.uint64, num_lines) | base
        event_time_ms = self._parse_times(block.data, spans, faults)
        batch = ClickBatch(
            label=label,
            dense=dense,
            keys=keys,
            event_time_ms=event_time_ms,
            fields=self._schema.categorical,
            dense_names=self._schema.dense,
        )
        lines = np.arange(block.first_line, block.first_line + num_lines)
        is_good = faults[:, 0] == FAULT_NONE
        if is_good.all():
            return LogRows(lines=lines, batch=batch, bad=())
        bad = tuple(self._bad_line(block, int(line), faults[line]) for line in np.flatnonzero(~is_good))
        return LogRows(lines=lines[is_good], batch=take_rows(batch, is_good), bad=bad)

    def _parse_numbers(
        self,
        data: bytes,
        unread: npt.NDArray[np.int32],
        dense: npt.NDArray[np.float32],
        faults: npt.NDArray[np.int32],
    ) -> None:
        """Fills in the numbers that the kernel left to Python: an exponent, too many digits, or not a number."""
        for line, column, begin, end in unread.tolist():
            value = parse_number(data[begin:end])
            if value is not None:
                dense[line, self._roles[column, DENSE]] = value
            elif faults[line, 0] == FAULT_NONE:
                faults[line] = FAULT_NUMBER, column

    def _parse_times(
        self, data: bytes, spans: npt.NDArray[np.int32], faults: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.int64]:
        """(L,) int64 event times in ms."""
        if self._time_column < 0:
            return np.full(len(faults), self._clock_ms(), np.int64)
        if len(self._times_ms) >= _MAX_CACHED_TOKENS:
            self._times_ms.clear()
        event_time_ms = np.zeros(len(faults), np.int64)
        for line, cell in enumerate(_cells(data, spans[:, self._roles[self._time_column, SPAN]])):
            if cell not in self._times_ms:
                time_ms = self._schema.parse_time_ms(cell.decode("ascii", "replace"))
                self._times_ms[cell] = -1 if time_ms is None else time_ms
            event_time_ms[line] = self._times_ms[cell]
        is_bad = (event_time_ms < 0) & (faults[:, 0] == FAULT_NONE)
        faults[is_bad] = FAULT_TIME, self._time_column
        return event_time_ms

    def _bad_line(self, block: LineBlock, position: int, fault: npt.NDArray[np.int32]) -> BadLine:
        kind, column = int(fault[0]), int(fault[1])
        raw = block.line(position)
        if kind == FAULT_LENGTH:
            reason = f"more than {MAX_LINE_BYTES} bytes, expected a shorter line"
        elif kind == FAULT_COLUMNS:
            reason = f"{column} columns, expected {len(self._columns)}"
            if column < len(self._columns):
                reason += f"; the first missing is {self._columns[column]!r}"
        else:
            cell = raw.split(self._schema.delimiter.encode())[column][:60].decode("utf-8", "replace")
            expected = _EXPECTED.get(kind) or f"a time of format {self._schema.time_format!r}"
            reason = f"column {self._columns[column]!r}: got {cell!r}, expected {expected}"
        return BadLine(line=block.first_line + position, error=_ERRORS[kind], reason=reason, raw=raw[:MAX_LINE_BYTES])


def _cells(data: bytes, spans: npt.NDArray[np.int32]) -> list[bytes]:
    return [data[begin:end] for begin, end in spans.tolist()]
