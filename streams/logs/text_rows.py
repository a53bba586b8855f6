"""Parses blocks of lines that Python reads one by one (JSON, libsvm, ffm) into rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pyarrow as pa

from streams.logs.faults import Faults
from streams.logs.json_lines import read_object
from streams.logs.lines import MAX_LINE_BYTES, LineBlock
from streams.logs.log_rows import BadRow, LogRows
from streams.logs.schema import LogSchema
from streams.logs.sparse_lines import SparseReader, Texts
from streams.logs.table import TableParser

__all__ = ["TextRowParser"]


class TextRowParser:
    """Parses blocks of lines of one of these formats.

    Args:
        schema: the roles of the columns.
        text_format: `json`, `libsvm` or `ffm`.
        where: the file's name, for messages.

    Attributes:
        tokens: token -> payload of the tokens that were hashed lately, by the index of their field.
    """

    def __init__(self, schema: LogSchema, text_format: str, where: str) -> None:
        self._columns = schema.used_columns
        self._read: Callable[[bytes], Texts | BadRow]
        self._read = partial(read_object, schema=schema) if text_format == "json" else SparseReader(schema).read
        self._types = {
            name: pa.list_(pa.binary()) if name in schema.list_columns else pa.binary() for name in self._columns
        }
        self._parser = TableParser(schema, self._types, where)
        self.tokens = self._parser.tokens

    def parse(self, block: LineBlock) -> LogRows:
        """The rows of a block. Cost: O(bytes of the block), in time and memory."""
        lines = [block.line(position) for position in range(block.num_lines)]
        read = [self._read_line(line) for line in lines]
        rows = [{} if isinstance(row, BadRow) else row for row in read]
        table = pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in self._types.items()})
        faults = Faults(table, lines)
        for position, row in enumerate(read):
            if isinstance(row, BadRow):
                faults.add(position, row)
        return self._parser.parse(block.first_line, table, faults)

    def _read_line(self, line: bytes) -> Texts | BadRow:
        if len(line) > MAX_LINE_BYTES:
            return BadRow("Length", "", f"more than {MAX_LINE_BYTES} bytes, expected a shorter line")
        return self._read(line)
