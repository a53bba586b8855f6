"""`AssignmentSteps`: applies assignment records between steps, and dead-letters those that cannot be applied."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from streams.assignments.columns import Fetch, Record
from streams.assignments.rereading import Losses, as_changes, find_corrections, read_again
from streams.clients.connector import Connector
from streams.clients.partition_reader import open_partition_log
from streams.clients.topic_feed import Taken, TopicFeed
from streams.keys import Keys
from streams.records import Assignment, BadRecord
from streams.telemetry.bad_record_log import BadRecordLog
from trainer.process.journal import Apply, Correct
from trainer.process.outbox import Outbox
from trainer.process.run import TrainingRun

__all__ = ["AssignmentSteps"]

logger = logging.getLogger(__name__)

_AT_ONCE = 20_000  # records
_CORRECTED = ("epoch", "seq", "generation", "verified_seq", "differs")


class AssignmentSteps:
    """Applies assignment records.

    If a digest proves that a change was lost, the shard is read again from its beginning, once until a digest is equal,
    and the model is corrected; training waits meanwhile. The journal has the corrections themselves, because the log
    may be compacted further before the event is repeated.

    Args:
        run: the run whose model follows.
        feed: the assignments.
        connector: the broker, to read a shard again.
        outbox: sends dead letters.
        bad_records: logs bad records.
        on_applied: called with the keys of the changes that were applied.
    """

    def __init__(
        self,
        run: TrainingRun,
        feed: TopicFeed,
        connector: Connector,
        outbox: Outbox,
        bad_records: BadRecordLog,
        on_applied: Callable[[Keys], None] = lambda _keys: None,
    ) -> None:
        self._run, self._feed, self._connector = run, feed, connector
        self._outbox, self._bad_records, self._on_applied = outbox, bad_records, on_applied
        self._losses = Losses()

    def follow(self, limit: int) -> int:
        """Applies the records that wait, at most `limit`, as an event of the journal; returns their number."""
        taken = self._feed.take_all(limit)
        if taken:
            self._begin(taken, {one.record.partition: one.record.offset + 1 for one in taken})
        return len(taken)

    def heal(self) -> None:
        """Corrects each shard of which a digest proves that a change was lost.

        Raises:
            BrokerError: a shard cannot be read again.
        """
        for partition, view in enumerate(self._run.history.shards):
            if self._losses.is_due(partition, differs=bool(view.differs)):
                self._correct(partition)

    def _begin(self, taken: list[Taken], ends: dict[int, int]) -> None:
        event = Apply(ends, _log_ends(taken))
        self._run.journal.record(event)
        self._apply(taken, event.log_ends)

    def repeat(self, event: Apply | Correct) -> None:
        """Repeats an event of the journal."""
        if isinstance(event, Apply):
            self._apply(self._feed.take_until(event.ends), event.log_ends)
        else:
            self._perform(event)

    def read_to_end(self) -> None:
        """Applies all present records, without events of the journal."""
        for part in self._parts(self._feed.ends()):
            taken = self._feed.take_until(part)
            self._apply(taken, _log_ends(taken))

    def _parts(self, ends: Mapping[int, int]) -> Iterator[dict[int, int]]:
        """The ends of parts of at most `_AT_ONCE` offsets a partition, up to these ends."""
        offsets = self._feed.offsets
        while part := {n: min(end, offsets[n] + _AT_ONCE) for n, end in ends.items() if offsets[n] < end}:
            yield part

    def _correct(self, partition: int) -> None:
        """Reads a shard again up to its present end, and corrects the model."""
        topic = self._feed.topic
        logger.warning("%s[%d]: a digest differs, so a change was lost; reading it again", topic, partition)
        with open_partition_log(self._connector) as log:
            after, hot, end = read_again(log, topic, partition, self._run.history)
        for part in self._parts({partition: end}):
            self._begin(self._feed.take_until(part), part)
        cold = Assignment(key=0, tier="cold", shard=partition, epoch=after.epoch, seq=after.seq)
        found = find_corrections(self._run.history.shards[partition], after, hot)
        changes = as_changes([replace(cold, key=key) if change is None else change[0] for key, change in found])
        event = Correct.of(partition, {name: getattr(after, name) for name in _CORRECTED}, changes)
        self._run.journal.record(event)
        self._perform(event)

    def _perform(self, event: Correct) -> None:
        """Applies what was found in a shard that was read again up to the next record."""
        run, changes = self._run, event.to_changes()
        assert run.trainer is not None  # noqa: S101  the digest that differed was applied to it
        run.history.correct(event.partition, changes, event.state, self._feed.offsets[event.partition])
        run.progress.add_applied(run.trainer.migrate(changes))
        self._on_applied(changes.key)

    def _apply(self, changes: list[Taken], log_ends: Mapping[int, int]) -> None:
        """Applies assignment records as one batch; those that cannot be applied go to the dead letters."""
        by_partition: dict[int, list[Taken]] = {}
        for taken in changes:
            if isinstance(taken.decoded, BadRecord):
                self._run.progress.bad_assignments += 1
                self._refuse(taken, taken.decoded.reason)
            elif isinstance(taken.decoded, Record):
                by_partition.setdefault(taken.record.partition, []).append(taken)
        fetches = [
            Fetch(
                partition=partition,
                records=[taken.decoded for taken in accepted],
                offsets=[taken.record.offset for taken in accepted],
                end_offset=log_ends.get(partition),
            )
            for partition, accepted in by_partition.items()
        ]
        outcomes = self._run.apply(fetches)
        for outcome in outcomes:
            self._on_applied(outcome.changes.key)
        for accepted, outcome in zip(by_partition.values(), outcomes, strict=True):
            for index, reason in outcome.refused.items():
                self._refuse(accepted[index], reason)
        now_ms = time.time_ns() // 1_000_000
        ages_ms = [now_ms - taken.record.timestamp for taken in changes if isinstance(taken.decoded, Assignment)]
        if ages_ms:
            self._run.progress.latency.add(ages_ms)

    def _refuse(self, taken: Taken, reason: str) -> None:
        self._bad_records.add(taken.record, reason)
        self._outbox.send_dead_letter(taken.record, reason)


def _log_ends(taken: list[Taken]) -> dict[int, int]:
    return {one.record.partition: one.log_end for one in taken}
