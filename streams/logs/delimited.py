"""Parses blocks of delimited lines into rows according to a log schema."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from streams.keys import field_key
from streams.logs.cells import (
    DENSE,
    FAULT_COLUMNS,
    FAULT_LABEL,
    FAULT_LENGTH,
    FAULT_NONE,
    FAULT_NUMBER,
    FAULT_QUOTE,
    FAULT_TIME,
    FAULT_TOKEN,
    FAULT_WEIGHT,
    HEX,
    LABEL,
    SPAN,
    parse_lines,
)
from streams.logs.lines import MAX_LINE_BYTES, LineBlock
from streams.logs.log_rows import BadLine, LogRows, take_rows
from streams.logs.schema import LogSchema
from streams.logs.texts import BAD_PAYLOAD, MAX_CACHED, TEXTS_REMEDY, Payloads, number_remedy, parse_number, split_cells
from streams.logs.times import describe_bad_time
from streams.logs.value_lists import MAX_VALUES, WEIGHTS_EXPECTED, FurtherValues, match_weights
from streams.records import ClickBatch, Weights

__all__ = ["DelimitedParser"]

_FAULT_VALUES, _FAULT_VALUE_WEIGHTS = 100, 101  # beside those of the kernel
# fault code -> `BadLine.error`
_ERRORS = {
    FAULT_COLUMNS: "Columns",
    FAULT_LABEL: "Label",
    FAULT_NUMBER: "Number",
    FAULT_TOKEN: "Token",
    FAULT_LENGTH: "Length",
    FAULT_TIME: "Time",
    FAULT_QUOTE: "Quote",
    FAULT_WEIGHT: "Weight",
    _FAULT_VALUES: "Values",
    _FAULT_VALUE_WEIGHTS: "Weight",
}
_EXPECTED = {
    FAULT_NUMBER: "a finite decimal number or an empty cell",
    FAULT_TOKEN: "8 hex digits or an empty cell",
    FAULT_QUOTE: "a quote at its end, on the same line; if quotes have no meaning in this log, write quote = false",
    FAULT_WEIGHT: "a finite number, 0 or more",
    _FAULT_VALUES: f"at most {MAX_VALUES} values in a list",
    _FAULT_VALUE_WEIGHTS: WEIGHTS_EXPECTED,
}
_BAD_LABEL = -1


class DelimitedParser:
    """Parses blocks of lines that have the given columns.

    Args:
        schema: the roles of the columns.
        columns: all columns of a line, in order, including those of the schema.
        clock_ms: gives the event time of rows without a time column: by default the wall clock at parsing.

    Attributes:
        tokens: token -> payload of the tokens that were hashed lately, by the index of their field.
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
        self._delimiter = np.frombuffer(schema.delimiter.encode(), np.uint8)
        self._numbers = (*schema.dense, *([] if schema.weight is None else [schema.weight]))
        self._roles = np.full((len(columns), 4), -1, np.int32)
        self._spelled: list[tuple[int, int, Payloads]] = []  # (index of the field, of the span, payloads)
        self.tokens: dict[int, Payloads] = {}
        self._num_spans = 0
        for column, name in enumerate(columns):
            self._set_roles(column, name)
        self._time_column = -1 if schema.time is None else self._columns.index(schema.time)
        self._times_ms: dict[bytes, int] = {}
        self._labels: dict[bytes, int] = {}

    def _set_roles(self, column: int, name: str) -> None:
        schema, roles = self._schema, self._roles[column]
        if name == schema.label:
            roles[LABEL] = 0 if schema.label_rule.is_plain else 1
        if name in self._numbers:
            roles[DENSE] = self._numbers.index(name)
        if name in schema.field_columns:
            index = schema.field_columns.index(name)
            field = schema.categorical[index]
            is_single = field.name not in schema.lists and index not in schema.weight_columns
            if field.kind == "hex32" and not schema.missing and is_single:
                roles[HEX] = index
            else:
                self.tokens[index] = Payloads(field, schema.missing)
                self._spelled.append((index, self._num_spans, self.tokens[index]))
                roles[SPAN] = self._num_spans
                self._num_spans += 1
        if name in (schema.time, *schema.weight_columns.values()) and roles[SPAN] < 0:
            roles[SPAN] = self._num_spans
            self._num_spans += 1

    def parse(self, block: LineBlock) -> LogRows:
        """The rows of a block. Cost: O(bytes of the block), in time and memory."""
        num_lines = block.num_lines
        label = np.zeros(num_lines, np.int8)  # (L,)
        numbers = np.empty((num_lines, len(self._numbers)), np.float32)  # (L, D), and the weight
        keys = np.zeros((num_lines, len(self._schema.categorical)), np.uint64)  # (L, F)
        spans = np.zeros((num_lines, self._num_spans, 2), np.int32)  # (L, S, 2)
        unread = np.empty((numbers.size + num_lines, 4), np.int32)
        faults = np.empty((num_lines, 2), np.int32)
        num_unread, has_doubled = parse_lines(
            np.frombuffer(block.data, np.uint8),
            block.starts,
            block.ends,
            self._delimiter,
            self._schema.quote,
            MAX_LINE_BYTES,
            self._roles,
            label,
            numbers,
            keys,
            spans,
            unread,
            faults,
        )
        self._parse_unread(block.data, unread[:num_unread], label, numbers, faults)
        cells = _Cells(block.data, spans, has_doubled=has_doubled)
        more = FurtherValues(num_lines, keys.shape[1])
        self._hash_tokens(cells, keys, faults, more)
        event_time_ms = self._parse_times(cells, faults)
        num_dense = len(self._schema.dense)
        weight = None if self._schema.weight is None else self._weights(numbers[:, num_dense], faults)
        batch = ClickBatch(
            label=None if self._schema.label is None else label,
            dense=numbers[:, :num_dense],
            keys=keys,
            event_time_ms=event_time_ms,
            fields=self._schema.categorical,
            dense_names=self._schema.dense,
            weight=weight,
            more=more.collected(),
            key_weights=more.key_weights,
        )
        lines = np.arange(block.first_line, block.first_line + num_lines)
        is_good = faults[:, 0] == FAULT_NONE
        if is_good.all():
            return LogRows(lines=lines, batch=batch, bad=())
        bad = tuple(self._bad_line(block, int(line), faults[line]) for line in np.flatnonzero(~is_good))
        return LogRows(lines=lines[is_good], batch=take_rows(batch, is_good), bad=bad)

    def _parse_unread(
        self,
        data: bytes,
        unread: npt.NDArray[np.int32],
        label: npt.NDArray[np.int8],
        numbers: npt.NDArray[np.float32],
        faults: npt.NDArray[np.int32],
    ) -> None:
        """Fills in what the kernel left to Python: labels but 0 and 1; numbers with an exponent or too many digits."""
        for line, column, begin, end in unread.tolist():
            cell, fault = data[begin:end], FAULT_NONE
            if self._roles[column, LABEL] >= 0:
                label[line] = parsed = self._parse_label(cell)
                fault = FAULT_LABEL if parsed == _BAD_LABEL else FAULT_NONE
            else:
                value = parse_number(cell)
                if value is None:
                    fault = FAULT_NUMBER
                else:
                    numbers[line, self._roles[column, DENSE]] = value
            known, known_column = faults[line].tolist()
            if fault != FAULT_NONE and (known == FAULT_NONE or (known == FAULT_TOKEN and column < known_column)):
                faults[line] = fault, column

    def _parse_label(self, cell: bytes) -> int:
        if len(self._labels) >= MAX_CACHED:
            self._labels.clear()
        if cell not in self._labels:
            label = self._schema.label_rule.parse(cell.decode("utf-8", "replace"))
            self._labels[cell] = _BAD_LABEL if label is None else label
        return self._labels[cell]

    def _hash_tokens(
        self, cells: _Cells, keys: npt.NDArray[np.uint64], faults: npt.NDArray[np.int32], more: FurtherValues
    ) -> None:
        """Fills in the keys (L, F) of the fields whose tokens Python reads."""
        for index, span, payloads in self._spelled:
            if self._schema.categorical[index].name in self._schema.lists or index in self._schema.weight_columns:
                found = self._take_values(index, cells, cells.of(span), payloads, faults, more)
            else:
                found = np.fromiter(map(payloads.__getitem__, cells.of(span)), np.int64, len(keys))
            if self._schema.categorical[index].kind == "hex32":
                column = self._columns.index(self._schema.field_columns[index])
                faults[(found == BAD_PAYLOAD) & (faults[:, 0] == FAULT_NONE)] = FAULT_TOKEN, column
            keys[:, index] = found.view(np.uint64) | field_key(index + 1)

    def _take_values(
        self,
        index: int,
        cells: _Cells,
        tokens: list[bytes],
        payloads: Payloads,
        faults: npt.NDArray[np.int32],
        more: FurtherValues,
    ) -> npt.NDArray[np.int64]:
        """(L,) payloads of a field's first values; `BAD_PAYLOAD` if a value of the line is not of its kind."""
        values, counts = self._split(index, tokens)
        found = np.fromiter((payloads[token] for token in values), np.int64, len(values))
        weights = None
        if index in self._schema.weight_columns:
            weights = self._value_weights(index, cells, found, counts, faults)
        rows = np.repeat(np.arange(len(counts)), counts)
        first = more.take(index, rows, found, weights)
        first[rows[found == BAD_PAYLOAD]] = BAD_PAYLOAD
        column = self._columns.index(self._schema.field_columns[index])
        faults[(counts > MAX_VALUES) & (faults[:, 0] == FAULT_NONE)] = _FAULT_VALUES, column
        return first

    def _split(self, index: int, cells: list[bytes]) -> tuple[list[bytes], npt.NDArray[np.int64]]:
        """The values (V,) of a field or of its weights, and (L,) the number of each line's."""
        if self._schema.categorical[index].name not in self._schema.lists:
            return cells, np.ones(len(cells), np.int64)
        separator = self._schema.list_separator.encode()
        lists = [cell.split(separator) for cell in cells]
        return [value for values in lists for value in values], np.fromiter(map(len, lists), np.int64, len(lists))

    def _value_weights(
        self,
        index: int,
        cells: _Cells,
        payloads: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
        faults: npt.NDArray[np.int32],
    ) -> Weights:
        """(V,) the weights of a field's values, checked."""
        column = self._columns.index(self._schema.weight_columns[index])
        texts, number_counts = self._split(index, cells.of(int(self._roles[column, SPAN])))
        parsed = (parse_number(text) for text in texts)
        numbers = np.fromiter((np.nan if one is None else one for one in parsed), np.float64, len(texts))
        weights, is_bad = match_weights(payloads, counts, numbers, number_counts)
        faults[is_bad & (faults[:, 0] == FAULT_NONE)] = _FAULT_VALUE_WEIGHTS, column
        return weights

    def _parse_times(self, cells: _Cells, faults: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """(L,) int64 event times in ms."""
        if self._time_column < 0:
            return np.full(len(faults), self._clock_ms(), np.int64)
        if len(self._times_ms) >= MAX_CACHED:
            self._times_ms.clear()
        event_time_ms = np.zeros(len(faults), np.int64)
        for line, cell in enumerate(cells.of(int(self._roles[self._time_column, SPAN]))):
            if cell not in self._times_ms:
                time_ms = self._schema.parse_time_ms(cell.decode("ascii", "replace"))
                self._times_ms[cell] = -1 if time_ms is None else time_ms
            event_time_ms[line] = self._times_ms[cell]
        is_bad = (event_time_ms < 0) & (faults[:, 0] == FAULT_NONE)
        faults[is_bad] = FAULT_TIME, self._time_column
        return event_time_ms

    def _weights(self, weight: npt.NDArray[np.float32], faults: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """(L,) the weights, checked."""
        column = self._columns.index(str(self._schema.weight))
        faults[~(weight >= 0) & (faults[:, 0] == FAULT_NONE)] = FAULT_WEIGHT, column  # NaN, too
        return weight

    def _bad_line(self, block: LineBlock, position: int, fault: npt.NDArray[np.int32]) -> BadLine:
        kind, column = int(fault[0]), int(fault[1])
        raw = block.line(position)
        name = ""
        if kind == FAULT_LENGTH:
            reason = f"more than {MAX_LINE_BYTES} bytes, expected a shorter line"
        elif kind == FAULT_COLUMNS:
            reason = f"{column} columns, expected {len(self._columns)}"
            if column < len(self._columns):
                reason += f"; the first missing is {self._columns[column]!r}"
            if column == len(self._columns) - 1 and self._schema.label is not None:
                reason += "; a log without labels needs a schema without 'label', such as criteo-kaggle-test"
        else:
            name = self._columns[column] if column < len(self._columns) else str(column + 1)
            cells = split_cells(raw, self._schema.delimiter.encode(), is_quoted=self._schema.quote)
            cell = cells[column][:60].decode("utf-8", "replace")
            reason = f"column {name!r}: got {cell!r}, expected {self._expected(kind, cell)}"
        return BadLine(
            line=block.first_line + position,
            error=_ERRORS[kind],
            column=name,
            reason=reason,
            raw=raw[:MAX_LINE_BYTES],
        )

    def _expected(self, kind: int, cell: str) -> str:
        if kind == FAULT_LABEL:
            return self._schema.label_rule.expected(cell)
        if kind == FAULT_TIME:
            return describe_bad_time(cell, self._schema.time_format)
        return _EXPECTED[kind] + (number_remedy(cell, TEXTS_REMEDY) if kind == FAULT_NUMBER else "")


class _Cells:
    """The cells of a block that the kernel left to Python.

    Args:
        data: the bytes of the block.
        spans: (L, S, 2) begin and end of each cell, as the kernel returns them.
        has_doubled: whether a cell has doubled quotes.
    """

    def __init__(self, data: bytes, spans: npt.NDArray[np.int32], *, has_doubled: bool) -> None:
        self._data, self._spans, self._has_doubled = data, spans, has_doubled

    def of(self, span: int) -> list[bytes]:
        """The L cells of a span."""
        data, spans = self._data, self._spans[:, span].tolist()
        if not self._has_doubled:
            return [data[begin:end] for begin, end in spans]
        return [data[begin:end] if begin >= 0 else data[-1 - begin : end].replace(b'""', b'"') for begin, end in spans]
