"""Click logs as blocks of N lines: any file that a schema fits, plain, gzip, zstd or Parquet, one after another.

Which line is in which block depends on nothing but the file and N, bad lines included: a block can be named by its
number, before and after a crash. Blocks are parsed only when asked to be, so those already sent cost little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from streams.errors import ConfigError, InputError
from streams.logs.delimited import DelimitedParser
from streams.logs.lines import LineBlock, LineFile
from streams.logs.log_rows import LogRows
from streams.logs.parquet import ParquetFile, ParquetParser
from streams.logs.schema import LogSchema

__all__ = ["Block", "check_logs", "read_log"]

_PARQUET = b"PAR1"
_SAMPLE_LINES = 100
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_Parsed: TypeAlias = Callable[[], LogRows]


@dataclass(frozen=True, kw_only=True)
class Block:
    """N lines of a file, not yet parsed; the last block of a file may be shorter.

    Attributes:
        path: the file.
        first_line: the number of its first line; a file's first line (a header, if it has one) is 1.
        last_line: the number of its last line.
        bytes_read: how much of the file, as it lies on disk, has been read so far.
        parse: gives the rows. Without a time column their event time is the wall clock at that moment.
    """

    path: Path
    first_line: int
    last_line: int
    bytes_read: int
    parse: _Parsed

    @property
    def num_lines(self) -> int:
        """Lines, good and bad."""
        return self.last_line - self.first_line + 1


def read_log(path: Path, schema: LogSchema, num_lines: int) -> Iterator[Block]:
    """The blocks of one file.

    Raises:
        ConfigError: the file's columns are not the schema's.
        InputError: the file cannot be read, holds no rows, or is damaged; the full blocks before that have come out.
    """
    is_empty = True
    blocks = _read_parquet if _is_parquet(path) else _read_lines
    for block in blocks(path, schema, num_lines):
        is_empty = False
        yield block
    if is_empty:
        raise InputError(f"{path}: no rows in it, expected at least one; name another file")


def check_logs(paths: Sequence[Path], schema: LogSchema) -> None:
    """Refuses what cannot be read by this schema, before anything is sent: looks at each file's first lines.

    Raises:
        ConfigError: a file is missing or a directory, or does not fit the schema: a column is not there, or not one
            of the first 100 lines is a good row.
        InputError: a file cannot be read, or holds no rows.
    """
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: no such file; name a click log")
        if path.is_dir():
            raise ConfigError(f"{path}: is a directory, expected a file; name the files in it")
        blocks = read_log(path, schema, _SAMPLE_LINES)
        rows = next(blocks).parse()
        blocks.close()  # type: ignore[attr-defined]  # a generator: closes the file now
        if not rows.batch.num_rows:
            first = rows.bad[0]
            raise ConfigError(
                f"{path} does not fit {schema}: line {first.line}: {first.reason}; so with all of the first "
                f"{len(rows.bad)} lines; name another --schema"
            )


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == _PARQUET
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _read_lines(path: Path, schema: LogSchema, num_lines: int) -> Iterator[Block]:
    columns: Sequence[str] = schema.columns
    if schema.header:
        columns = _header(path, schema)
        schema.require_columns(columns, str(path))
    parser = DelimitedParser(schema, columns)
    file = LineFile(path)
    for block in file.blocks(num_lines, skip_lines=int(schema.header)):
        yield Block(
            path=path,
            first_line=block.first_line,
            last_line=block.last_line,
            bytes_read=file.bytes_read,
            parse=partial(parser.parse, block),
        )


def _header(path: Path, schema: LogSchema) -> list[str]:
    first: LineBlock | None = next(LineFile(path).blocks(1), None)
    if first is None:
        raise InputError(f"{path}: no rows in it, expected a header and rows; name another file")
    text = first.line(0).removeprefix(_BYTE_ORDER_MARK).decode("utf-8", "replace")
    columns = text.split(schema.delimiter)
    twice = {name for name in columns if columns.count(name) > 1 and name in schema.used_columns}
    if twice:
        raise ConfigError(f"{path}: column {min(twice)!r} is named twice in the header, expected once")
    return columns


def _read_parquet(path: Path, schema: LogSchema, num_rows: int) -> Iterator[Block]:
    file = ParquetFile(path)
    types = file.column_types()
    schema.require_columns(list(types), str(path))
    parser = ParquetParser(schema, types, str(path))
    for first_row, table in file.blocks(num_rows, schema.used_columns):
        yield Block(
            path=path,
            first_line=first_row,
            last_line=first_row + table.num_rows - 1,
            bytes_read=file.bytes_read,
            parse=partial(parser.parse, first_row, table),
        )
