"""`BadLines`: counts the malformed lines of logs by reason, and judges their share."""

from __future__ import annotations

from collections import Counter
from typing import Any

from streams.errors import InputError
from streams.logs.log_rows import LogRows

__all__ = ["BadLines"]

_SHOWN = 3


class BadLines:
    """The malformed lines of logs.

    Attributes:
        num_lines: lines read, malformed ones included.
        num_bad: malformed lines.
    """

    def __init__(self) -> None:
        self.num_lines = self.num_bad = 0
        self._counts: Counter[tuple[str, str]] = Counter()  # (error, column)
        self._examples: dict[tuple[str, str], str] = {}

    def add(self, rows: LogRows, file: str = "") -> None:
        """Counts the lines of a block; `file` is the name of its file."""
        self.num_lines += rows.batch.num_rows + len(rows.bad)
        self.num_bad += len(rows.bad)
        for line in rows.bad:
            kind = line.error, line.column
            self._counts[kind] += 1
            if kind not in self._examples:
                where = f"{file}, line {line.line}" if file else f"line {line.line}"
                self._examples[kind] = f"{where}: {line.reason}"

    @property
    def share(self) -> float:
        """The malformed share of the lines."""
        return self.num_bad / self.num_lines if self.num_lines else 0.0

    def reasons(self) -> list[dict[str, Any]]:
        """The reasons, the most frequent first, for reports: error, column, number of lines, and the first of them."""
        return [
            {"error": error, "column": column, "lines": lines, "first": self._examples[error, column]}
            for (error, column), lines in self._counts.most_common()
        ]

    def require_few(self, most: float) -> None:
        """Refuses a log with too many malformed lines.

        Args:
            most: the largest share of the lines that may be malformed.

        Raises:
            InputError: there are more; the message has the reasons, the most frequent first.
        """
        if self.share > most:
            raise InputError(
                f"{self.num_bad} of {self.num_lines} lines are malformed ({self.share:.2%}), expected at most "
                f"{most:.2%} (--max-bad). {'; '.join(self.describe())}. Correct the log or its schema (docs/schema.md)"
            )

    def describe(self) -> list[str]:
        """A line for each of the most frequent reasons."""
        reasons = self.reasons()
        shown = [f"{reason['lines']} x {reason['error']}: {reason['first']}" for reason in reasons[:_SHOWN]]
        return [*shown, *([f"{len(reasons) - _SHOWN} more reasons"] if len(reasons) > _SHOWN else [])]
