"""The trainer as a process: it reads topics, trains and writes topics until it is asked to stop or the input ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from streams.clients.recorded_fields import require_fields
from streams.clients.topic_feed import TopicFeed
from streams.clients.topic_identity import TopicChange, TopicWatch
from streams.clients.worker import Worker
from streams.errors import BrokerError, TopicError
from streams.records import BadRecord, ClickBatch, decode_assignment, decode_clicks
from streams.telemetry.bad_record_log import BadRecordLog
from trainer.embedding.lookup import Importance
from trainer.process.assignment_steps import AssignmentSteps
from trainer.process.change_pacer import ChangePacer
from trainer.process.checkpoint import Captured
from trainer.process.click_steps import ClickSteps
from trainer.process.journal import Apply, Correct
from trainer.process.outbox import Outbox
from trainer.process.publication import Publication
from trainer.process.reports import ProgressReports, describe_run
from trainer.process.run import TrainingRun
from trainer.process.session_config import SessionConfig
from trainer.process.topic_changes import TrainerTopics
from trainer.process.warm_up import warm_up
from trainer.serving.published import Published

__all__ = ["IDLE_POLL_MS", "Session", "SessionConfig"]

logger = logging.getLogger(__name__)

_CLICKS_AHEAD = 16
_ASSIGNMENTS_AHEAD = 20_000
_CHUNKS_AHEAD = 256
IDLE_POLL_MS = 20  # the longest wait of a change while no clicks arrive


class Session:
    """Reads clicks and assignments, trains, sends importance.

    Guarantees:
        - Each click record is part of one step, and causes one importance record for each shard of its keys.
        - Before a checkpoint is written, the broker has acknowledged the importance of every row in it. After a kill
          the rows after the newest checkpoint are trained and their importance sent again; the agent counts it once.
        - Assignments are applied between steps, in the order of each shard's `seq`; a burst is spread over several
          steps, so that training pauses for at most about half a step.
        - Training continues while checkpoints are written, records decoded, and importance encoded and sent.
        - A topic that is deleted, made again or extended is noticed (`trainer.process.topic_changes`).

    Args:
        config: the configuration of the session.
        should_stop: called between steps.
        on_progress: called after every step.

    Attributes:
        published: what the topic `embeddings` has, after `train`; None without publishing.

    Raises:
        BrokerError: no broker answers.
        TopicError: a topic is missing, has another number of partitions than expected, or other fields than these.
        CheckpointError: as `TrainingRun`.
    """

    _steps_class = ClickSteps

    def __init__(
        self,
        config: SessionConfig,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[TrainingRun], None] = lambda _run: None,
    ) -> None:
        self._config = config
        self._should_stop = should_stop
        self._on_progress = on_progress
        self._topics = TrainerTopics.read(config.kafka)
        require_fields(config.kafka, config.fields)
        self._partitions = {name: known.partitions for name, known in self._topics.identities.items()}
        self._ending: TopicChange | None = None
        self.run = self._open_run()
        self._bad_records = BadRecordLog(logger)
        self._published: dict[str, Any] | None = None
        self.published: Published | None = None
        self.reports = ProgressReports(self.run, config.metrics_interval_s, config.log_interval_s)

    def _open_run(self) -> TrainingRun:
        config = self._config
        return TrainingRun(
            config.run,
            self._partitions[self._topics.names.assignments],
            resume=config.resume,
            topics=self._topics,
            columns=(config.fields, len(config.dense_names)),
        )

    def _is_mine(self, partition: int) -> bool:  # noqa: ARG002
        """Whether this process reads a partition of clicks or assignments: a single one reads them all."""
        return True

    def train(self) -> None:
        """Trains until it is asked to stop, the limit is reached, or the input ends; then writes a checkpoint.

        Raises:
            BrokerError: the broker refuses, or a record cannot be delivered.
            CheckpointError: the checkpoint at the end cannot be written.
            DivergedError: the model has diverged; no checkpoint was written since.
            TopicError: a topic was deleted, made again or extended; the checkpoint at the end is written before.
        """
        config, kafka, offsets, names = self._config, self._config.kafka, self.run.offsets, self._topics.names
        warm_up(config.run.model, config.fields, config.dense_names, config.run.device)
        self._pacer = ChangePacer()
        with (
            closing(self.run),
            Worker("decoder", _CHUNKS_AHEAD) as decoder,
            Worker("checkpoints") as writer,
            TopicWatch(kafka, self._topics.identities, interval_s=config.topics_interval_s) as self._watch,
            self._explained(),
            TopicFeed(
                kafka,
                names.clicks,
                self._partitions[names.clicks],
                is_mine=self._is_mine,
                offsets=offsets["clicks"],
                max_records=_CLICKS_AHEAD,
                decode=self._decode_clicks,
                worker=decoder,
            ) as clicks,
            TopicFeed(
                kafka,
                names.assignments,
                self._partitions[names.assignments],
                is_mine=self._is_mine,
                offsets=offsets["assignments"],
                max_records=_ASSIGNMENTS_AHEAD,
                decode=lambda record: decode_assignment(record.key, record.value, record.headers),
                worker=decoder,
            ) as assignments,
            Outbox(
                kafka,
                names,
                self._partitions[names.importance],
                clicks_id=self._topics.identities[names.clicks].topic_id,
            ) as outbox,
            Publication(config.publish, kafka, self.run) as self._publication,
        ):
            self._clicks, self._assignments, self._outbox, self._writer = clicks, assignments, outbox, writer
            self._steps = self._steps_class(
                self.run, clicks, outbox, self._bad_records, size=config.batch, on_progress=self._on_progress,
                on_trained=self._note_trained,
            )  # fmt: skip
            self._changes = AssignmentSteps(
                self.run, assignments, kafka, outbox, self._bad_records, self._publication.note_changes
            )
            self._sent_before = self.run.progress.importance_records
            self.run.offsets = {"clicks": clicks.offsets, "assignments": assignments.offsets}
            self._begin_again()
            self._run_to_end()
            if self._ending is None or self._topics.takes_importance(self._ending):
                self._finish()
            else:
                outbox.abandon()
            if self._ending is not None:
                raise TopicError(self._topics.describe_end(self._ending))

    def _note_trained(self, importance: Importance) -> None:
        """Notes what was trained, to publish it."""
        self._publication.note_importance(importance)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Replaces the error of a broker by that of the topic, if a topic has changed.

        Raises:
            TopicError: it has changed in a way that ends the process.
        """
        try:
            yield
        except BrokerError as error:
            changes = [] if self._ending is None else [self._ending]
            with suppress(BrokerError):  # the error being handled has the reason
                changes += [change for change in self._watch.check() if not self._topics.is_followed(change)]
            if not changes:
                raise
            raise TopicError(self._topics.describe_end(changes[0])) from error

    def _finish(self) -> None:
        """Sends what waits, and writes the checkpoint at the end."""
        self._steps.settle()
        self._publication.finish()
        self._published, self.published = self._publication.report(), self._publication.describe()
        self._outbox.flush()
        self._writer.drain()
        self.run.progress.importance_records = self._sent_before + self._outbox.importance_records
        self._report_progress(force=True)
        self._outbox.flush()
        self.run.checkpoint()

    def _run_to_end(self) -> None:
        """Repeats the journal and follows the topics, until the end or a change of a topic that ends the process."""
        try:
            self._repeat()
            self._follow()
        except (BrokerError, TopicError):
            with suppress(BrokerError):  # the error being handled has the reason
                self._take_changes(self._watch.check())
            if self._ending is None:
                raise

    def _begin_again(self) -> None:
        """After topics were made again: reads the hot set, if it is another, and keeps the new identities."""
        if self.run.resumption.assignments_again:
            self._changes.read_to_end()
            self.run.end_replacement()
        if self.run.resumption.drops_journal:
            self.run.checkpoint()

    def _take_changes(self, changes: list[TopicChange]) -> None:
        """Follows changes of topics, or notes the first one that ends the process."""
        for change in changes:
            if not self._topics.is_followed(change):
                self._ending = self._ending or change
                continue
            logger.warning("%s", self._topics.describe_followed(change))
            assert change.now is not None  # noqa: S101  a deleted topic is not followed
            self._topics.identities[change.topic] = change.now
            if change.topic == self._topics.names.clicks:
                self._clicks.add_partitions(change.now.partitions)

    def _repeat(self) -> None:
        """Repeats the events of the journal after the checkpoint, in the same order."""
        repeated = 0
        while not self._is_stopped and (event := self.run.journal.next_scripted()) is not None:
            repeated += 1
            if isinstance(event, Apply | Correct):
                self._changes.repeat(event)
            else:
                self._steps.repeat(event)
            self._between_steps()
        self._steps.settle()
        if repeated:
            logger.info("repeated %d events of the journal; %d rows trained", repeated, self.run.progress.rows)

    def _follow(self) -> None:
        """Applies changes and trains clicks as they arrive."""
        came_s = time.monotonic()
        while not self._is_finished():
            self._follow_changes()
            can_train = self._clicks.num_waiting and not self._steps.is_collecting
            self._clicks.fetch(0 if can_train else IDLE_POLL_MS)
            started_s = time.perf_counter()
            if taken := self._steps.take(self._rows_left):
                self._steps.begin(taken)
                self._pacer.note_step(time.perf_counter() - started_s)
                came_s = time.monotonic()
            else:
                self._steps.settle()
                self._outbox.release()
                if self._has_ended(came_s):
                    return
            self._between_steps()

    def _follow_changes(self) -> None:
        """Applies the changes that fit between two steps."""
        self._assignments.fetch(limit=4 * self._pacer.limit)
        if self.run.trainer is not None:
            started_s = time.perf_counter()
            num_changes = self._changes.follow(self._pacer.limit)
            self._pacer.note_changes(num_changes, time.perf_counter() - started_s)
            self._changes.heal()

    @property
    def _is_stopped(self) -> bool:
        return self._ending is not None or self._should_stop()

    @property
    def _rows_left(self) -> int | None:
        """The rows to train until the limit, if the step that runs counts; None without a limit."""
        limit = self._config.limit_rows
        return None if limit is None else limit - self.run.progress.rows - self._steps.rows_ahead

    def _is_finished(self) -> bool:
        rows_left = self._rows_left
        if rows_left is not None and rows_left <= 0:
            self._steps.settle()
            rows_left = self._rows_left
        return self._is_stopped or (rows_left is not None and rows_left <= 0)

    def _has_ended(self, came_s: float) -> bool:
        patience_s = self._config.idle_timeout_s
        return patience_s is not None and time.monotonic() - came_s >= patience_s and self._clicks.is_at_end()

    def _decode_clicks(self, record: Any) -> ClickBatch | BadRecord:
        fields, dense_names = self._config.fields, self._config.dense_names
        return decode_clicks(record.value, record.headers, fields=fields, dense_names=dense_names)

    def _between_steps(self) -> None:
        self._writer.check()
        self._take_changes(self._watch.take())
        if self.run.wants_checkpoint:
            self._steps.settle()
            self._checkpoint()
        self._publication.publish()
        self._report_progress()

    def _checkpoint(self) -> None:
        """Captures the state; another thread writes it after the broker has acknowledged its importance."""
        started_s = time.perf_counter()
        captured = self.run.capture()
        if captured is not None:
            self._outbox.after_delivery(lambda: self._hand_over(captured))
        logger.debug("checkpoint at %d rows: %.3f s", self.run.progress.rows, time.perf_counter() - started_s)

    def _hand_over(self, captured: Captured) -> None:
        """Runs in the outbox's thread after the last record of the captured state is acknowledged."""
        captured.state["progress"]["importance_records"] = self._sent_before + self._outbox.importance_records
        self._writer.submit(self.run.write, captured)

    def _report_progress(self, *, force: bool = False) -> None:
        """Sends metrics and writes a line to the log, each at its interval."""
        metrics = self.reports.take_due(self._clicks, force=force)
        if metrics is not None:
            self._outbox.send_metrics(metrics)

    def report(self) -> dict[str, Any]:
        """The figures of the final report."""
        return {**describe_run(self.run), **({"published": self._published} if self._published else {})}
