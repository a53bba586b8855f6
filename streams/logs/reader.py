"""Reads click logs in blocks of N lines: delimited, JSON, libsvm, ffm or Parquet, compressed or not.

The blocks depend only on the file and N, malformed lines included, so the number of a block identifies the same lines
before and after a crash. A block is parsed on request, so a resumed replay skips the blocks it has sent at little
cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from streams.errors import ConfigError, InputError
from streams.escapes import escape
from streams.logs.bad_lines import BadLines
from streams.logs.chunks import CountedFile
from streams.logs.columns import top_level
from streams.logs.delimited import DelimitedParser
from streams.logs.lines import LineBlock, LineFile
from streams.logs.locations import LocalFile, LogFile, StandardInput, find_logs
from streams.logs.log_rows import LogRows
from streams.logs.parquet import ParquetFile
from streams.logs.schema import LogSchema
from streams.logs.table import TableParser
from streams.logs.text_rows import TextRowParser
from streams.logs.texts import split_cells

__all__ = ["LogBlock", "check_logs", "read_log"]

_PARQUET = b"PAR1"
_SAMPLE_LINES = 100


@dataclass(frozen=True, kw_only=True)
class LogBlock:
    """N lines of a file, not yet parsed; the last block of a file may be shorter.

    Attributes:
        file: the file.
        first_line: the number of its first line; the first line of a file (the header, if it has one) is 1.
        last_line: the number of its last line.
        bytes_read: bytes read so far of the file as stored, compressed if the file is.
        tokens: the payload of each token that was hashed lately, by the index of its field; those of the lines after
            `parse`.
        parse: parses the lines. Without a time column, the event time of the rows is the wall clock at the call.
    """

    file: LogFile
    first_line: int
    last_line: int
    bytes_read: int
    tokens: Mapping[int, Mapping[bytes, int]]
    parse: Callable[[], LogRows]

    @property
    def num_lines(self) -> int:
        """The number of lines, malformed ones included."""
        return self.last_line - self.first_line + 1


def read_log(file: Path | LogFile, schema: LogSchema, num_lines: int) -> Iterator[LogBlock]:
    """The blocks of one file; none if it holds no rows, as a part file may.

    Raises:
        ConfigError: the file lacks a column of the schema, or a column has the wrong type.
        InputError: the file cannot be read, or is damaged; the complete blocks before the damage have been yielded.
    """
    log = LocalFile(file) if isinstance(file, Path) else file
    try:
        raw = log.open()
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"{log.where}: cannot be read ({error.strerror or error}); check its name and its permissions"
        ) from error
    with raw:
        counted = CountedFile(raw, log.where)
        if counted.peek(len(_PARQUET)) != _PARQUET:
            yield from _read_lines(log, counted, schema, num_lines)
            return
    yield from _read_parquet(log, schema, num_lines)


def check_logs(paths: Sequence[str | Path], schema: LogSchema) -> None:
    """Refuses logs that do not fit the schema, before anything is sent: parses the first 100 lines of each.

    Standard input, which can be read once, is not looked at.

    Raises:
        ConfigError: a file is missing, lacks a column of the schema, or more than half of its first 100 lines are
            malformed.
        InputError: a file cannot be read, or no file holds rows.
    """
    files = find_logs(paths)
    has_rows = [_check(file, schema) for file in files if not isinstance(file, StandardInput)]
    if has_rows and len(has_rows) == len(files) and not any(has_rows):
        raise InputError(f"{files[0].where}: no rows in it, expected at least one; name another file")


def _check(file: LogFile, schema: LogSchema) -> bool:
    """Whether a file holds rows."""
    blocks = read_log(file, schema, _SAMPLE_LINES)
    sample = [block.parse() for block in islice(blocks, 1)]
    blocks.close()  # type: ignore[attr-defined]  # a generator: closes the file now
    for rows in sample:
        num_bad, num_lines = len(rows.bad), len(rows.bad) + rows.batch.num_rows
        if 2 * num_bad > num_lines:
            counts = BadLines()
            counts.add(rows)
            raise ConfigError(
                f"{file.where} does not fit {schema}: {num_bad} of the first {num_lines} lines are malformed. "
                f"{'; '.join(counts.describe())}. Correct the schema or name another --schema (docs/schema.md)"
            )
    return bool(sample)


def _read_lines(log: LogFile, counted: CountedFile, schema: LogSchema, num_lines: int) -> Iterator[LogBlock]:
    lines = LineFile(counted)
    is_json = schema.format == "json" or (schema.format == "auto" and lines.peek().lstrip()[:1] == b"{")
    parser: DelimitedParser | TextRowParser
    if is_json or schema.format in ("libsvm", "ffm"):
        parser = TextRowParser(schema, "json" if is_json else schema.format, log.where)
        blocks = lines.blocks(num_lines)
    else:
        blocks = lines.blocks(num_lines, header_lines=int(schema.header))
        columns: Sequence[str] = schema.columns
        if schema.header:
            first = next(blocks, None)
            if first is None:
                return
            columns = _split_header(first, schema, log.where)
        parser = DelimitedParser(schema, columns)
    for block in blocks:
        yield LogBlock(
            file=log,
            first_line=block.first_line,
            last_line=block.last_line,
            bytes_read=lines.bytes_read,
            tokens=parser.tokens,
            parse=partial(parser.parse, block),
        )


def _split_header(first: LineBlock, schema: LogSchema, where: str) -> list[str]:
    """The names of the columns."""
    line = first.line(0)
    cells = split_cells(line, schema.delimiter.encode(), is_quoted=schema.quote)
    columns = [cell.decode("utf-8", "replace") for cell in cells]
    used = set(schema.used_columns)
    repeated = {name for name, count in Counter(columns).items() if count > 1 and name in used}
    if repeated:
        raise ConfigError(f"{where}: the header repeats column {escape(min(repeated))!r}, expected it once")
    schema.require_columns(columns, where)
    return columns


def _read_parquet(log: LogFile, schema: LogSchema, num_rows: int) -> Iterator[LogBlock]:
    file = ParquetFile(log)
    types = file.column_types()
    parser = TableParser(schema, types, log.where)
    for first_row, table in file.blocks(num_rows, top_level(schema.used_columns, types)):
        yield LogBlock(
            file=log,
            first_line=first_row,
            last_line=first_row + table.num_rows - 1,
            bytes_read=file.bytes_read,
            tokens=parser.tokens,
            parse=partial(parser.parse, first_row, table),
        )
