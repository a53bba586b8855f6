"""The figures of a trainer for its metrics, from its progress and its latest report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from streams.clients.connector import Connector
from streams.telemetry.figures import Figure
from streams.telemetry.monitor import ProcessMonitor, Watched
from trainer.process.reports import ProgressReports
from trainer.process.run import TrainingRun

__all__ = ["TrainerFigures"]

_COUNTERS = {
    "rows_total": "rows",
    "click_records_total": "click_records",
    "refused_steps_total": "refused_steps",
    "failed_checkpoints_total": "failed_checkpoints",
    "importance_keys_total": "importance_rows",
}


class _Count(NamedTuple):
    """As `Figure`, of a counter."""

    name: str
    value: float
    labels: Mapping[str, str] = MappingProxyType({})


def _series(count: _Count) -> tuple[str, ...]:
    return (count.name, *count.labels.values())


class TrainerFigures:
    """The figures of a run; counters begin with 0 in this process, those of the run go on after a restart.

    Args:
        run: the run.
        reports: its reports.
    """

    def __init__(self, run: TrainingRun, reports: ProgressReports) -> None:
        self._run, self._reports = run, reports
        self._before: dict[tuple[str, ...], float] = {}
        self._before = {_series(figure): figure.value for figure in self._counters()}

    def watch(self, monitor: ProcessMonitor, connector: Connector) -> None:
        """Shows these figures, if the monitor serves any."""
        topics = self._run.topics
        assert topics is not None  # noqa: S101  a run without topics is no process
        monitor.attach(
            Watched(
                connector=connector,
                topic=topics.names.clicks,
                num_partitions=topics.identities[topics.names.clicks].partitions,
                offsets=lambda: dict(self._run.offsets["clicks"]),
                figures=self.figures,
                is_started=lambda: self._reports.latest is not None,
            )
        )

    def figures(self) -> Iterator[Figure]:
        """The figures; may be called in any thread."""
        for figure in self._counters():
            yield Figure(figure.name, figure.value - self._before.get(_series(figure), 0.0), figure.labels)
        yield from self._sizes()
        yield from self._times()
        yield from self._report()

    def _counters(self) -> Iterator[_Count]:
        """The counts since the run began."""
        progress, assignments = self._run.progress, self._run.history.describe()
        counts = {name: int(assignments[name] or 0) for name in ("applied", "stale", "refused", "mismatches")}
        for name, member in _COUNTERS.items():
            yield _Count(f"trainer_{name}", getattr(progress, member))
        yield _Count("trainer_promotions_total", progress.applied["promoted"])
        yield _Count("trainer_demotions_total", progress.applied["demoted"])
        yield _Count("trainer_dead_letters_total", progress.bad_clicks, {"topic": "clicks"})
        bad = progress.bad_assignments + counts["refused"]
        yield _Count("trainer_dead_letters_total", bad, {"topic": "assignments"})
        yield _Count("trainer_digest_mismatches_total", counts["mismatches"])
        for result in ("applied", "stale", "refused"):
            yield _Count("trainer_assignments_total", counts[result], {"result": result})

    def _sizes(self) -> Iterator[Figure]:
        trainer = self._run.trainer
        if trainer is not None:
            yield Figure("trainer_hot_features", trainer.embedding.num_hot)
            yield Figure("trainer_capacity_rows", trainer.embedding.plan.capacity_rows)
            for name, learner in trainer.learners.items():
                yield Figure("trainer_embedding_bytes", learner.embedding.nbytes["total"], {"learner": name})

    def _times(self) -> Iterator[Figure]:
        progress = self._run.progress
        yield Figure("trainer_step_seconds", progress.step_time)
        yield Figure("trainer_assignment_delay_seconds", progress.latency)
        if progress.event_time_ms:
            yield Figure("trainer_event_timestamp_seconds", progress.event_time_ms / 1000)
        yield Figure("trainer_apply_lag_seconds", progress.apply_lag_s)
        if self._run.config.checkpoint_dir is not None:
            yield Figure("trainer_checkpoint_age_seconds", time.monotonic() - progress.saved_s)

    def _report(self) -> Iterator[Figure]:
        """What the trainer's own thread found for its latest metrics record."""
        report = self._reports.latest
        yield Figure("trainer_table_verified", self._run.history.verified)
        if report is None:
            return
        yield Figure("trainer_unique_lookups_ratio", report.unique_share)
        yield Figure("trainer_lag_records", report.lag_records)
        yield Figure("trainer_lag_seconds", self._lag_s(report.lag_records))
        for rows, scores in (("all", report.auc), ("window", report.window_auc)):
            for learner, score in scores.items():
                yield Figure("trainer_auc", score, {"learner": learner, "rows": rows})
        for learner, loss in report.log_loss.items():
            yield Figure("trainer_log_loss", loss, {"learner": learner})

    def _lag_s(self, lag_records: int) -> float | None:
        """The age of the newest trained click record while there are others; None before the first one."""
        if not lag_records:
            return 0.0
        newest_ms = self._reports.newest_click_ms
        return None if newest_ms is None else max(0.0, time.time() - newest_ms / 1000)
