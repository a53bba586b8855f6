"""The progress of a run: the figures of its report, and those that a checkpoint keeps."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streams.assignments.columns import Fetch
from streams.keys import Keys
from streams.records import Assignment, ClickBatch
from streams.telemetry.latency import LatencyHistogram
from trainer.embedding.migration import MigrationReport
from trainer.errors import DivergedError
from trainer.learning.quality import Windows
from trainer.learning.trainer import StepReport

__all__ = ["Progress"]

logger = logging.getLogger(__name__)

_MOST_REFUSALS = 3  # refused steps in a row, after which a run ends
_MOST_REASONS, _SHOWN_REASONS = 100, 3
_KEPT = (
    "rows", "click_records", "bad_clicks", "bad_assignments", "importance_records", "importance_rows",
    "refused_steps", "refused_rows", "refused_in_a_row",
)  # fmt: skip


@dataclass
class Progress:
    """Counts since the run began, across restarts; latencies since the process began.

    Attributes:
        windows: the quality of each learner.
        rows: click rows trained.
        click_records: click records trained.
        bad_clicks: malformed or invalid click records.
        bad_assignments: malformed or invalid assignment records.
        importance_records: importance records sent, one for each shard and click record.
        importance_rows: keys in the importance records.
        refused_steps: steps refused because a loss or gradient was not finite; they changed nothing.
        refused_rows: their click rows.
        refused_in_a_row: the refused steps since the last trained one.
        applied: counts of applied changes, by effect.
        failed_checkpoints: checkpoints that this process could not write.
        records_before: click records that were trained before this process.
        reasons: the click records that this process has refused, by reason.
        latency: the time from an assignment record's timestamp until it was applied.
        step_time: the time of training steps.
        last_keys: the keys of the last step, of any shape; None before it.
        event_time_ms: the event time of the newest trained rows; 0 before the first.
        apply_lag_s: the time from the event that caused the newest applied change until then; None before the first.
        saved_s: when this process wrote its newest checkpoint, or began, in seconds of `time.monotonic`.
    """

    windows: Windows
    rows: int = 0
    click_records: int = 0
    bad_clicks: int = 0
    bad_assignments: int = 0
    importance_records: int = 0
    importance_rows: int = 0
    refused_steps: int = 0
    refused_rows: int = 0
    refused_in_a_row: int = 0
    applied: dict[str, int] = field(default_factory=lambda: dict.fromkeys(vars(MigrationReport()), 0))
    failed_checkpoints: int = 0
    records_before: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    step_time: LatencyHistogram = field(default_factory=LatencyHistogram)
    last_keys: Keys | None = None
    event_time_ms: int = 0
    apply_lag_s: float | None = None
    saved_s: float = field(default_factory=time.monotonic)

    def refuse_clicks(self, reason: str) -> None:
        """Counts a click record that cannot be trained."""
        self.bad_clicks += 1
        self.reasons[reason if reason in self.reasons or len(self.reasons) < _MOST_REASONS else "other reasons"] += 1

    @property
    def refused_share(self) -> float:
        """The share of the click records that this process could not train."""
        refused = self.reasons.total()
        return refused / max(1, refused + self.click_records - self.records_before)

    def describe_refused_clicks(self) -> list[str]:
        """The reasons of refused click records, the most frequent first."""
        return [f"{number} x {reason}" for reason, number in self.reasons.most_common(_SHOWN_REASONS)]

    def note_saved(self) -> None:
        """Notes that a checkpoint was written."""
        self.saved_s = time.monotonic()

    def add_applied(self, report: MigrationReport, fetches: Sequence[Fetch] = ()) -> None:
        """Adds the counts of a batch of changes, and notes the lag of the newest one behind its event."""
        for name, number in vars(report).items():
            self.applied[name] += number
        newest_ms = _newest_event_ms(fetches)
        if newest_ms is not None:
            self.apply_lag_s = time.time() - newest_ms / 1000

    def describe_applied(self) -> dict[str, int]:
        """The counts of applied changes, under the names of the reports."""
        return {"promotions": self.applied["promoted"], "demotions": self.applied["demoted"], **self.applied}

    def count_step(self, report: StepReport, batch: ClickBatch, records: int, name: str) -> bool:
        """Counts a step, trained or refused; returns whether it was trained.

        Args:
            report: the step's report.
            batch: its rows.
            records: its click records.
            name: the name of the batch in messages.

        Raises:
            DivergedError: it is the last of several refused ones in a row.
        """
        if report.importance is None:
            self.count_refusal(report, name)
            return False
        self.step_time.add_one(report.seconds * 1000)
        self.last_keys, self.event_time_ms = batch.every_key, int(batch.event_time_ms[-1])
        self.windows.add(report.logits, batch.require_labels())
        self.rows += report.rows
        self.click_records += records
        self.refused_in_a_row = 0
        return True

    def count_refusal(self, report: StepReport, name: str) -> None:
        """Counts a step that was refused.

        Args:
            report: the step's report.
            name: the name of the batch in messages.

        Raises:
            DivergedError: it is the last of several in a row.
        """
        self.refused_steps += 1
        self.refused_rows += report.rows
        self.refused_in_a_row += 1
        losses = ", ".join(f"{learner} {report.loss[learner]:g}" for learner in report.diverged)
        refused = f"{name}: the loss ({losses}) or a gradient is not finite"
        logger.warning("%s; nothing was learned from these %d rows", refused, report.rows)
        if self.refused_in_a_row >= _MOST_REFUSALS:
            raise DivergedError(
                f"the model diverged: {self.refused_in_a_row} steps in a row were refused, after {self.rows} trained "
                f"rows; the last one, {refused}. No checkpoint with such numbers is written, and the last good one is "
                "kept; lower --dense-learning-rate or --learning-rate, and start over with --fresh"
            )

    def to_state(self) -> dict[str, Any]:
        """The state for `load_state`, for JSON."""
        return {
            **{name: getattr(self, name) for name in _KEPT},
            "applied": self.applied,
            "windows": self.windows.to_state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores the result of `to_state`."""
        for name in _KEPT:
            setattr(self, name, int(state[name]))
        self.records_before = self.click_records
        self.applied = {name: int(number) for name, number in state["applied"].items()}
        self.windows = Windows.from_state(state["windows"])

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Progress:
        """The progress of a state."""
        progress = cls(Windows.from_state(state["windows"]))
        progress.load_state(state)
        return progress

    def add_up(self, other: Progress) -> None:
        """Adds the counts and the predictions of another rank's progress."""
        for name in _KEPT:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.records_before += other.records_before
        self.reasons += other.reasons
        self.applied = {name: number + other.applied[name] for name, number in self.applied.items()}
        self.windows.add_up(other.windows)


def _newest_event_ms(fetches: Sequence[Fetch]) -> int | None:
    """The event time of the last change that has one; a digest, a claim or a tombstone has none."""
    for fetch in reversed(fetches):
        for record in reversed(fetch.records):
            if isinstance(record, Assignment) and record.event_time_ms is not None:
                return record.event_time_ms
    return None
