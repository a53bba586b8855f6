"""Reads the first rows of a log: their feature keys, and what the rows weigh in the clicks topic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from streams.errors import InputError
from streams.logs.bad_lines import BadLines
from streams.logs.locations import find_logs
from streams.logs.reader import LogBlock, read_log
from streams.logs.schema import LogSchema
from streams.records import ClickBatch, encode_clicks, merge_more
from trainer.advise.lookups import Lookups

__all__ = ["RECORD_ROWS", "Sample", "read_sample"]

RECORD_ROWS = 2048  # of a click record, as `hotstream replay` sends them
_FEWEST_TIMES = 10  # a time column with fewer values is too coarse for a rate


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The first N rows of a log.

    Attributes:
        lookups: the feature keys, in the order of the log.
        rows_per_s: the pace of the log's own times; None without a time column, or if its times are too coarse.
        click_bytes: bytes of a row in a click record.
        log_rows: rows of the whole log, estimated from the bytes read; N if the log was read to its end, and None if
            the size of a file is not known.
        bad_lines: the malformed lines.
    """

    lookups: Lookups
    rows_per_s: float | None
    click_bytes: float
    log_rows: int | None
    bad_lines: BadLines

    @property
    def num_rows(self) -> int:
        """N."""
        return self.lookups.num_rows


def read_sample(paths: Sequence[str], schema: LogSchema, num_rows: int) -> Sample:
    """The first `num_rows` rows, fewer if the log ends before.

    Raises:
        ConfigError: a file does not fit the schema.
        InputError: a file cannot be read, or holds no valid row.
    """
    bad_lines = BadLines()
    batches: list[ClickBatch] = []
    blocks, num_read, log_rows = _blocks(paths, schema), 0, None
    for block in blocks:
        rows = block.parse()
        bad_lines.add(rows, block.file.name)
        batches.append(rows.batch)
        num_read += rows.batch.num_rows
        if num_read >= num_rows:
            log_rows = _log_rows(paths, block, blocks, bad_lines.num_lines)
            break
    if not num_read:
        raise InputError(f"{paths[0]}: no valid row, expected at least one; check the files and --schema")
    return Sample(
        lookups=_lookups(batches).between(0, num_rows),
        rows_per_s=_pace(batches) if schema.time is not None else None,
        click_bytes=_click_bytes(batches),
        log_rows=log_rows if num_read >= num_rows else num_read,
        bad_lines=bad_lines,
    )


def _lookups(batches: Sequence[ClickBatch]) -> Lookups:
    more = merge_more([batch.more for batch in batches], [batch.num_rows for batch in batches])
    return Lookups.of(np.concatenate([batch.keys for batch in batches]), more)


def _blocks(paths: Sequence[str], schema: LogSchema) -> Iterator[LogBlock]:
    return chain.from_iterable(read_log(file, schema, RECORD_ROWS) for file in find_logs(paths))


def _log_rows(paths: Sequence[str], last: LogBlock, blocks: Iterator[LogBlock], num_lines: int) -> int | None:
    """The rows of all files, estimated from the bytes read when `num_lines` lines up to the last block were parsed.

    A reader is ahead of the block that it yields: the lines of what it has read are counted, and not parsed.
    """
    files = find_logs(paths)
    if not all(file.size_bytes for file in files):
        return None
    read_bytes = last.bytes_read + sum(file.size_bytes for file in files[: files.index(last.file)])
    for block in blocks:
        if block.file != last.file or block.bytes_read != last.bytes_read:
            break
        num_lines += block.num_lines
    return max(num_lines, round(num_lines * sum(file.size_bytes for file in files) / read_bytes))


def _pace(batches: Sequence[ClickBatch]) -> float | None:
    """Rows a second of event time."""
    times = np.concatenate([batch.event_time_ms for batch in batches])
    span_ms = int(times.max() - times.min())
    is_coarse = len(np.unique(times)) < _FEWEST_TIMES
    return None if is_coarse else len(times) / span_ms * 1000


def _click_bytes(batches: Sequence[ClickBatch]) -> float:
    """Bytes of a row in the first click record, uncompressed."""
    first = next(batch for batch in batches if batch.num_rows)
    return len(encode_clicks(first)) / first.num_rows
