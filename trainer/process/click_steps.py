"""`ClickSteps`: trains click records, one a step or several, and sends the importance of each.

    clicks feed --take--> records of a step --train--> queued on the device --settle--> progress, importance

On a CPU a step is settled at once. On a device the report of a step is read while the next one runs, so the device
never waits for the host; `settle` reads the last one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streams.clients.topic_feed import Taken, TopicFeed
from streams.records import ClickBatch, merge_key_weights, merge_more
from streams.telemetry.bad_record_log import BadRecordLog
from trainer.embedding.lookup import Importance
from trainer.learning.trainer import StartedStep
from trainer.process.journal import Train, TrainTogether
from trainer.process.outbox import Outbox
from trainer.process.run import TrainingRun

__all__ = ["BatchSize", "ClickSteps", "merge_clicks"]


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """The size of a step.

    Args:
        rows: the rows to collect for a step, from whole click records; a step has more only if its only record has
            more. 0 for one click record a step.
        wait_s: the longest time to wait for these rows while fewer have arrived.
    """

    rows: int = 0
    wait_s: float = 0.1


@dataclass(frozen=True, kw_only=True)
class _Record:
    """A click record, and its rows with the columns of the model."""

    taken: Taken
    batch: ClickBatch


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A step whose report was not read yet."""

    started: StartedStep
    records: Sequence[_Record]
    batch: ClickBatch


def merge_clicks(batches: Sequence[ClickBatch]) -> ClickBatch:
    """The rows of several click records of the same columns, in order; the only one as it is."""
    if len(batches) == 1:
        return batches[0]
    return ClickBatch(
        label=np.concatenate([batch.require_labels() for batch in batches]),
        dense=np.concatenate([batch.dense for batch in batches]),
        keys=np.concatenate([batch.keys for batch in batches]),
        event_time_ms=np.concatenate([batch.event_time_ms for batch in batches]),
        fields=batches[0].fields,
        dense_names=batches[0].dense_names,
        weight=_merge_weights(batches),
        more=merge_more([batch.more for batch in batches], [batch.num_rows for batch in batches]),
        key_weights=merge_key_weights(
            [batch.key_weights for batch in batches], [batch.keys.shape for batch in batches]
        ),
    )


def _merge_weights(batches: Sequence[ClickBatch]) -> npt.NDArray[np.float32] | None:
    if all(batch.weight is None for batch in batches):
        return None
    ones = (np.ones(batch.num_rows, np.float32) for batch in batches)
    return np.concatenate(
        [one if batch.weight is None else batch.weight for batch, one in zip(batches, ones, strict=True)]
    )


def _num_rows(taken: Taken) -> int:
    return taken.decoded.num_rows if isinstance(taken.decoded, ClickBatch) else 0


def _name(records: Sequence[_Record]) -> str:
    first, others = records[0].taken.record, len(records) - 1
    name = f"{first.topic}[{first.partition}], offset {first.offset}"
    return f"{name}, and {others} more click records" if others else name


class ClickSteps:
    """The steps of a session.

    Guarantees:
        - Each click record is part of one step, and causes one importance record for each shard of its keys, named by
          this click record, whatever the other records of its step are.
        - No row waits for a full step longer than `wait_s`, nor does the rest of a topic that has ended.

    Args:
        run: the run to train.
        clicks: the feed of click records.
        outbox: sends importance and dead letters.
        bad_records: logs bad records.
        size: the size of a step.
        on_progress: called after every trained step.
        on_trained: called with the importance of each trained click record.
        clock: seconds, for the wait.
    """

    def __init__(
        self,
        run: TrainingRun,
        clicks: TopicFeed,
        outbox: Outbox,
        bad_records: BadRecordLog,
        *,
        size: BatchSize,
        on_progress: Callable[[TrainingRun], None],
        on_trained: Callable[[Importance], None] = lambda _importance: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._clicks, self._outbox, self._bad_records = run, clicks, outbox, bad_records
        self._size, self._on_progress, self._on_trained, self._clock = size, on_progress, on_trained, clock
        self._waiting: _Step | None = None
        self._since_s: float | None = None

    @property
    def rows_ahead(self) -> int:
        """Rows of the step that is not settled yet; they count once it is, unless it is refused."""
        return self._waiting.started.rows if self._waiting is not None else 0

    @property
    def is_collecting(self) -> bool:
        """Whether the last `take` waits for more records."""
        return self._since_s is not None

    def take(self, most_rows: int | None = None) -> list[Taken]:
        """Takes the records of the next step from the feed; none if there are none, or too few so far.

        Args:
            most_rows: the number of rows after which to take no further record; None for no limit.
        """
        return [self._clicks.take_oldest() for _ in range(self.count(most_rows))]

    def count(self, most_rows: int | None = None) -> int:
        """The number of records that `take` would take now."""
        if not self._clicks.num_waiting:
            return 0
        count = self._count(most_rows) if self._size.rows else 1
        if count:
            self._since_s = None
        return count

    def _count(self, most_rows: int | None) -> int:
        """The number of records of the next step; 0 while more may come."""
        wanted = self._size.rows if most_rows is None else min(self._size.rows, most_rows)
        count, rows = 0, 0
        for taken in self._clicks.in_order():
            size = _num_rows(taken)
            if count and rows + size > self._size.rows:
                return count
            count, rows = count + 1, rows + size
            if rows >= wanted:
                return count
        if self._clicks.make_room():
            return 0
        now_s = self._clock()
        if self._since_s is None:
            self._since_s = now_s
        return count if now_s - self._since_s >= self._size.wait_s else 0

    def begin(self, taken: Sequence[Taken]) -> None:
        """Records the step of these records in the journal, then trains it.

        Raises:
            DivergedError: several steps in a row were refused.
        """
        named = tuple((one.record.partition, one.record.offset) for one in taken)
        self._run.journal.record(Train(*named[0]) if len(named) == 1 else TrainTogether(named))
        self.train(taken)

    def repeat(self, event: Train | TrainTogether) -> None:
        """Trains the records of an event of the journal.

        Raises:
            DivergedError: several steps in a row were refused.
        """
        named = event.records if isinstance(event, TrainTogether) else ((event.partition, event.offset),)
        ends: dict[int, int] = {}
        for partition, offset in named:
            ends[partition] = max(ends.get(partition, 0), offset + 1)
        taken = {(one.record.partition, one.record.offset): one for one in self._clicks.take_until(ends)}
        self.train([taken[name] for name in named if name in taken])

    def train(self, taken: Sequence[Taken]) -> None:
        """Starts the step of these records, and settles the one before; those that cannot be trained are dead-lettered.

        Raises:
            DivergedError: several steps in a row were refused.
        """
        if records := self._fit_all(taken):
            self._start(records)

    def _start(self, records: Sequence[_Record]) -> None:
        batches = [record.batch for record in records]
        batch, sizes = merge_clicks(batches), [one.num_rows for one in batches]
        started = self._run.start(batch, self._after_lookup, record_rows=sizes)
        before, self._waiting = self._waiting, _Step(started=started, records=records, batch=batch)
        if before is not None:
            self._finish(before)
            self._outbox.release()
        if self._run.trainer is None or not self._run.trainer.is_queued:
            self.settle()

    def _after_lookup(self) -> None:
        """Starts what runs beside the dense part."""
        self._outbox.release()

    def _fit_all(self, taken: Sequence[Taken]) -> list[_Record]:
        """The records that can be trained; the others go to the dead letters."""
        return [record for one in taken if (record := self._fit(one)) is not None]

    def _fit(self, taken: Taken) -> _Record | None:
        """The record with the columns of the model; one that cannot be trained goes to the dead letters."""
        batch = self._run.fit(taken.decoded)
        if isinstance(batch, ClickBatch):
            return _Record(taken=taken, batch=batch)
        self._run.progress.refuse_clicks(batch.reason)
        self._bad_records.add(taken.record, batch.reason)
        self._outbox.send_dead_letter(taken.record, batch.reason)
        return None

    def settle(self) -> None:
        """Waits for the last step, counts it, and sends its importance.

        Raises:
            DivergedError: several steps in a row were refused.
        """
        step, self._waiting = self._waiting, None
        if step is not None:
            self._finish(step)

    def _finish(self, step: _Step) -> None:
        run, report = self._run, step.started.finish()
        if not run.progress.count_step(report, step.batch, len(step.records), _name(step.records)):
            return
        for importance, record in zip(report.importances, step.records, strict=True):
            self._outbox.send_importance(importance, record.taken.record, record.batch)
            run.progress.importance_rows += len(importance.keys)
            self._on_trained(importance)
        self._on_progress(run)
