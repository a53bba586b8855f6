"""Reads click logs in blocks of N lines: plain, gzip, zstd or Parquet.

The blocks depend only on the file and N, malformed lines included, so the number of a block identifies the same lines
before and after a crash. A block is parsed on request, so a resumed replay skips the blocks it has sent at little
cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from streams.errors import ConfigError, InputError
from streams.logs.delimited import DelimitedParser
from streams.logs.lines import LineBlock, LineFile
from streams.logs.log_rows import LogRows
from streams.logs.parquet import ParquetFile, ParquetParser
from streams.logs.schema import LogSchema

__all__ = ["LogBlock", "check_logs", "read_log"]

_PARQUET = b"PAR1"
_SAMPLE_LINES = 100
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class LogBlock:
    """N lines of a file, not yet parsed; the last block of a file may be shorter.

    Attributes:
        path: the file.
        first_line: the number of its first line; the first line of a file (the header, if it has one) is 1.
        last_line: the number of its last line.
        bytes_read: bytes read so far of the file on disk, compressed if the file is.
        parse: parses the lines. Without a time column, the event time of the rows is the wall clock at the call.
    """

    path: Path
    first_line: int
    last_line: int
    bytes_read: int
    parse: Callable[[], LogRows]

    @property
    def num_lines(self) -> int:
        """The number of lines, malformed ones included."""
        return self.last_line - self.first_line + 1


def read_log(path: Path, schema: LogSchema, num_lines: int) -> Iterator[LogBlock]:
    """The blocks of one file.

    Raises:
        ConfigError: the file lacks a column of the schema, or a column has the wrong type.
        InputError: the file cannot be read, holds no rows, or is damaged; the complete blocks before the damage have
            been yielded.
    """
    is_empty = True
    blocks = _read_parquet if _is_parquet(path) else _read_lines
    for block in blocks(path, schema, num_lines):
        is_empty = False
        yield block
    if is_empty:
        raise InputError(f"{path}: no rows in it, expected at least one; name another file")


def check_logs(paths: Sequence[Path], schema: LogSchema) -> None:
    """Refuses files that do not fit the schema, before anything is sent: parses the first 100 lines of each.

    Raises:
        ConfigError: a file is missing or a directory, lacks a column of the schema, or all of its first 100 lines are
            malformed.
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
                f"{path} does not fit {schema}: line {first.line}: {first.reason}; all of the first {len(rows.bad)} "
                "lines are malformed; name another --schema"
            )


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == _PARQUET
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _read_lines(path: Path, schema: LogSchema, num_lines: int) -> Iterator[LogBlock]:
    columns: Sequence[str] = schema.columns
    if schema.header:
        columns = _header(path, schema)
        schema.require_columns(columns, str(path))
    parser = DelimitedParser(schema, columns)
    file = LineFile(path)
    for block in file.blocks(num_lines, skip_lines=int(schema.header)):
        yield LogBlock(
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
    used = set(schema.used_columns)
    repeated = {name for name, count in Counter(columns).items() if count > 1 and name in used}
    if repeated:
        raise ConfigError(f"{path}: the header repeats column {min(repeated)!r}, expected it once")
    return columns


def _read_parquet(path: Path, schema: LogSchema, num_rows: int) -> Iterator[LogBlock]:
    file = ParquetFile(path)
    types = file.column_types()
    schema.require_columns(list(types), str(path))
    parser = ParquetParser(schema, types, str(path))
    for first_row, table in file.blocks(num_rows, schema.used_columns):
        yield LogBlock(
            path=path,
            first_line=first_row,
            last_line=first_row + table.num_rows - 1,
            bytes_read=file.bytes_read,
            parse=partial(parser.parse, first_row, table),
        )
