"""The parts of the demo's replay: the first measures what the trainer carries, half of which is the pace of the next.

measured    the first rows, as fast as they go: the trainer has a queue, and shows what it carries
paced       at half of that, or at the given rate: nothing waits in a queue, so latencies are the pipeline's
flat-out    on request, the rest as fast as it goes: latencies are those of a queue
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from streams.records import TrainerMetrics
from streams.telemetry.latency import LatencyHistogram

__all__ = ["FLAT_OUT", "MEASURED", "PACED", "CarriedRate", "Part", "measured_rows", "merge_replays", "paced_limit"]

MEASURED, PACED, FLAT_OUT = "measured", "paced", "flat-out"

_MEASURED_ROWS = 16_384
_PACED_S = 60.0


class CarriedRate:
    """What the trainer carries while click records wait for it, from its metrics."""

    def __init__(self, rows_before: int = 0) -> None:
        self._rows_before = rows_before
        self._first: TrainerMetrics | None = None
        self._last: TrainerMetrics | None = None
        self._best = 0.0

    def note(self, trainer: TrainerMetrics | None) -> None:
        """Notes the trainer's latest metrics."""
        if trainer is None or trainer.rows <= self._rows_before:
            return
        self._best = max(self._best, trainer.rows_per_s)
        self._first = self._first or trainer
        if trainer.lag_records:
            self._last = trainer

    @property
    def rows_per_s(self) -> float | None:
        """Rows a second while records waited; of its best second if they waited for less; None before the first row."""
        if self._first is not None and self._last is not None and self._last.time_ms - self._first.time_ms >= 1000:
            return (self._last.rows - self._first.rows) / (self._last.time_ms - self._first.time_ms) * 1000
        return self._best or None


@dataclass(kw_only=True)
class Part:
    """One part of the replay.

    Attributes:
        name: `MEASURED`, `PACED` or `FLAT_OUT`.
        rate_rows_s: the pace of the replay; None for as fast as possible.
        report: the report of `hotstream replay`.
        carried: what the trainer carried.
        latency: from the event to the arrival of the change that it caused, in ms.
    """

    name: str
    rate_rows_s: float | None
    report: dict[str, Any]
    carried: CarriedRate
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)

    @property
    def rows(self) -> int:
        """The rows that were sent."""
        return int(self.report["rows"]["sent"])

    def describe(self) -> dict[str, Any]:
        """The figures of the part, for the report."""
        carried = self.carried.rows_per_s
        return {
            "part": self.name,
            "rows": self.rows,
            "replayed_rows_per_s": self.rate_rows_s and round(self.rate_rows_s, 1),
            "trained_rows_per_s": carried and round(carried, 1),
            "event_to_assignment": self.latency.summary(),
        }


def measured_rows(num_rows: int | None, batch_rows: int) -> int:
    """The rows of the first part: whole click records, at most a quarter of the log.

    Args:
        num_rows: rows of the log; None if unknown.
        batch_rows: rows of a click record.
    """
    rows = _MEASURED_ROWS if num_rows is None else min(_MEASURED_ROWS, num_rows // 4)
    return max(1, rows // batch_rows) * batch_rows


def paced_limit(sent: int, rate_rows_s: float, num_rows: int | None, *, is_last: bool) -> int:
    """The number of rows at which the paced part ends: after a minute, or half of the rest if another part follows.

    Args:
        sent: rows sent before.
        rate_rows_s: the pace.
        num_rows: rows of the log; None if unknown.
        is_last: whether no other part follows.
    """
    limit = sent + max(1, int(rate_rows_s * _PACED_S))
    if num_rows is None:
        return limit
    return min(limit, num_rows if is_last else sent + (num_rows - sent) // 2)


def merge_replays(parts: Sequence[Part]) -> dict[str, Any]:
    """The rows and the malformed lines of all parts: one after the other has sent the same log."""
    rows = [part.report["rows"] for part in parts]
    lines: dict[tuple[str, Any], dict[str, Any]] = {}
    for reason in (reason for part in parts for reason in part.report["bad_lines"]):
        known = lines.setdefault((reason["error"], reason["column"]), {**reason, "lines": 0})
        known["lines"] += reason["lines"]
    total = {name: sum(each[name] for each in rows) for name in ("sent", "bad")}
    return {"rows": {"read": rows[-1]["read"], **total}, "bad_lines": list(lines.values())}
