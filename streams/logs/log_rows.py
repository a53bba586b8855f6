"""The parsed rows of a block of a log: valid rows as a click batch, and malformed lines with the reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streams.records import ClickBatch

__all__ = ["BadLine", "BadRow", "LogRows", "take_rows"]


class BadRow(NamedTuple):
    """A line that holds no row.

    Attributes:
        error: the kind of fault, as in `BadLine`.
        column: the column of the fault; empty if it is the whole line.
        reason: what was got and what expected.
    """

    error: str
    column: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class BadLine:
    """A malformed line.

    Attributes:
        line: its number in the file, from 1.
        error: the kind of fault: Columns, Label, Number, Token, Length, Time, Quote, Weight, Values or Text.
        column: the column of the fault; empty if it is the whole line.
        reason: the column, the value found and the value expected.
        raw: the bytes of the line (of a Parquet row: JSON), truncated to `lines.MAX_LINE_BYTES`.
    """

    line: int
    error: str
    column: str = ""
    reason: str
    raw: bytes


@dataclass(frozen=True, kw_only=True)
class LogRows:
    """The rows of one block.

    Attributes:
        lines: (B,) int64, the line number of each valid row.
        batch: the B valid rows; B may be 0.
        bad: the malformed lines, in the order of the file.
    """

    lines: npt.NDArray[np.int64]
    batch: ClickBatch
    bad: tuple[BadLine, ...]

    def between(self, first_line: int, last_line: int) -> LogRows:
        """The rows and malformed lines from `first_line` to `last_line`, both included."""
        is_kept = (self.lines >= first_line) & (self.lines <= last_line)
        batch = self.batch if is_kept.all() else take_rows(self.batch, is_kept)
        bad = tuple(line for line in self.bad if first_line <= line.line <= last_line)
        return LogRows(lines=self.lines[is_kept], batch=batch, bad=bad)


def take_rows(batch: ClickBatch, is_kept: npt.NDArray[np.bool_]) -> ClickBatch:
    """The rows of a batch that a (B,) mask selects."""
    return replace(
        batch,
        label=None if batch.label is None else batch.label[is_kept],
        dense=batch.dense[is_kept],
        keys=batch.keys[is_kept],
        event_time_ms=batch.event_time_ms[is_kept],
        weight=None if batch.weight is None else batch.weight[is_kept],
        more=None if batch.more is None else batch.more.of_rows(is_kept),
        key_weights=None if batch.key_weights is None else batch.key_weights[is_kept],
    )
