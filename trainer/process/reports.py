"""What a session reports: metrics and a line in the log at intervals, and the figures of the final report."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from streams.clients.topic_feed import TopicFeed
from streams.records import TrainerMetrics
from trainer.learning.trainer import ADAPTIVE
from trainer.process.progress import Progress
from trainer.process.run import TrainingRun

__all__ = ["ProgressReports", "describe_progress", "describe_run"]

logger = logging.getLogger(__name__)

_VERDICTS = {True: "equal to the agent's", False: "differs from the agent's", None: "not yet compared"}


@dataclass
class _Pace:
    """The time of the last report, and the rows trained by then."""

    at_s: float = field(default_factory=time.monotonic)
    rows: int = 0

    def advance(self, rows: int) -> float:
        """Rows a second since the last call."""
        now_s = time.monotonic()
        rate = (rows - self.rows) / max(now_s - self.at_s, 1e-9)
        self.at_s, self.rows = now_s, rows
        return rate


class ProgressReports:
    """The reports of a run that is in progress.

    Args:
        run: the run.
        metrics_interval_s: the time between two metrics records.
        log_interval_s: the time between two lines in the log.

    Attributes:
        latest: the latest metrics; None before the first.
        newest_click_ms: Kafka's time of the newest trained click record as of then.
    """

    def __init__(self, run: TrainingRun, metrics_interval_s: float, log_interval_s: float) -> None:
        self._run = run
        self.latest: TrainerMetrics | None = None
        self.newest_click_ms: int | None = None
        self._metrics_interval_s, self._log_interval_s = metrics_interval_s, log_interval_s
        self._metrics_pace, self._log_pace = _Pace(rows=run.progress.rows), _Pace(rows=run.progress.rows)

    def take_due(self, clicks: TopicFeed, *, force: bool = False) -> TrainerMetrics | None:
        """Writes a line to the log if one is due; returns the metrics if they are due.

        Args:
            clicks: the clicks, of which some are not trained yet.
            force: whether both are due, whatever the time.
        """
        now_s = time.monotonic()
        metrics = None
        if force or now_s - self._metrics_pace.at_s >= self._metrics_interval_s:
            metrics = _describe(self._run, self._metrics_pace.advance(self._run.progress.rows), clicks.lag())
            self.latest, self.newest_click_ms = metrics, clicks.newest_ms
        if force or now_s - self._log_pace.at_s >= self._log_interval_s:
            self._log(clicks.lag())
        return metrics

    def _log(self, lag: int) -> None:
        progress = self._run.progress
        rate = self._log_pace.advance(progress.rows)
        auc = progress.windows.auc()
        scores = ", ".join(f"{name} {value:.4f}" for name, value in auc.items() if value is not None)
        refused = f", {progress.bad_clicks} click records refused" if progress.bad_clicks else ""
        promotions, verdict = progress.applied["promoted"], _VERDICTS[self._run.history.verified]
        logger.info(
            "%d rows, %.0f rows/s, %d records behind%s, %d promotions, hot set %s, AUC %s",
            progress.rows, rate, lag, refused, promotions, verdict, scores or "-",
        )  # fmt: skip


def _describe(run: TrainingRun, rows_per_s: float, lag: int) -> TrainerMetrics:
    progress, trainer = run.progress, run.trainer
    return TrainerMetrics(
        time_ms=time.time_ns() // 1_000_000,
        rows=progress.rows,
        rows_per_s=round(rows_per_s, 1),
        lag_records=lag,
        hot=trainer.embedding.num_hot if trainer else 0,
        bad=progress.bad_clicks,
        applied=progress.describe_applied(),
        assignments=run.history.describe(),
        latency_ms={"assignment_to_trainer": progress.latency.summary()},
        auc=progress.windows.auc(),
        window_auc=progress.windows.latest_auc(),
        log_loss=progress.windows.log_loss(),
        windows=progress.windows.finished[-1:],
        unique_share=_unique_share(run),
    )


def _unique_share(run: TrainingRun) -> float | None:
    """The share of the last step's lookups that unique rows would serve now; None without any. O(lookups)."""
    keys = run.progress.last_keys
    if run.trainer is None or keys is None:
        return None
    rows = run.trainer.embedding.rows_of(keys.reshape(-1))
    return round(float((rows >= 0).mean()), 4) if len(rows) else None


def describe_run(run: TrainingRun) -> dict[str, Any]:
    """The figures of the final report."""
    progress, trainer = run.progress, run.trainer
    sizes: dict[str, Any] = {}
    if trainer is not None:
        learners = trainer.learners.items()
        sizes = {name: learner.embedding.nbytes["total"] for name, learner in learners}
        sizes["breakdown"] = {name: learner.embedding.nbytes for name, learner in learners}
    return {
        "rows": {"trained": progress.rows, "resumed_from": run.resumed_rows},
        "failed_checkpoints": progress.failed_checkpoints,
        **describe_progress(progress),
        "assignments": run.history.describe(),
        "latency_ms": {"assignment_to_trainer": progress.latency.summary()},
        "embedding_bytes": sizes,
        "hot_rows": trainer.embedding.num_hot if trainer else 0,
        "capacity_rows": trainer.embedding.plan.capacity_rows if trainer else None,
        "applied_seq": run.history.standings(),
        "offsets": {
            topic: {str(number): offset for number, offset in sorted(offsets.items())}
            for topic, offsets in run.offsets.items()
        },
        "windows": progress.windows.finished,
        "primary": ADAPTIVE,
    }


def describe_progress(progress: Progress) -> dict[str, Any]:
    """The counts and scores of the final report that ranks add up."""
    return {
        "click_records": {
            "trained": progress.click_records,
            "bad": progress.bad_clicks,
            "reasons": progress.describe_refused_clicks(),
        },
        "refused": {"steps": progress.refused_steps, "rows": progress.refused_rows},
        "importance": {"records": progress.importance_records, "rows": progress.importance_rows},
        "applied": {**progress.describe_applied(), "bad_records": progress.bad_assignments},
        "auc": progress.windows.auc(),
        "log_loss": progress.windows.log_loss(),
    }
