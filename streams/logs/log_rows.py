"""What reading a block of a log gives: good rows as a click batch, bad lines with the reason."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from streams.records import ClickBatch

__all__ = ["BadLine", "LogRows", "take_rows"]


@dataclass(frozen=True, kw_only=True)
class BadLine:
    """A line that holds no row.

    Attributes:
        line: its number in the file, from 1 on.
        error: the kind of fault: Columns, Label, Number, Token, Length or Time.
        reason: what, got, expected.
        raw: its bytes (of a Parquet row: JSON), cut off after `lines.MAX_LINE_BYTES`.
    """

    line: int
    error: str
    reason: str
    raw: bytes


@dataclass(frozen=True, kw_only=True)
class LogRows:
    """The rows of one block.

    Attributes:
        lines: (B,) int64, the line number of each good row.
        batch: the good rows; B may be 0.
        bad: the other lines, in order.
    """

    lines: npt.NDArray[np.int64]
    batch: ClickBatch
    bad: tuple[BadLine, ...]

    def between(self, first_line: int, last_line: int) -> LogRows:
        """Only what stands on these lines, both included."""
        kept = (self.lines >= first_line) & (self.lines <= last_line)
        batch = self.batch if kept.all() else take_rows(self.batch, kept)
        bad = tuple(line for line in self.bad if first_line <= line.line <= last_line)
        return LogRows(lines=self.lines[kept], batch=batch, bad=bad)


def take_rows(batch: ClickBatch, kept: npt.NDArray[np.bool_]) -> ClickBatch:
    """The rows of a batch that a (B,) mask keeps."""
    return replace(
        batch,
        label=batch.label[kept],
        dense=batch.dense[kept],
        keys=batch.keys[kept],
        event_time_ms=batch.event_time_ms[kept],
    )
