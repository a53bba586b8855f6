"""`AssignmentReader`: reads the assignments topic into a table, and gives the changes; the base of all subscribers."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np

from sketch.changes import Changes
from sketch.hashing import shard_of
from streams.assignments.as_of import find_offsets
from streams.assignments.columns import Fetch, Record
from streams.assignments.feature_names import FeatureNames
from streams.assignments.history import Outcome
from streams.assignments.rereading import Losses, as_changes, find_corrections, read_again
from streams.assignments.shard_view import ShardView
from streams.assignments.table import HotTable
from streams.clients.connector import Connector
from streams.clients.partition_reader import PartitionLog, open_partition_log
from streams.clients.topic_identity import TopicChange, TopicWatch, require_topics
from streams.clients.topic_reader import TopicReader
from streams.errors import BrokerError, TopicError
from streams.records import Assignment, BadRecord, decode_assignment
from streams.telemetry.bad_record_log import BadRecordLog
from streams.topics import Topics

__all__ = ["AssignmentReader"]

logger = logging.getLogger(__name__)

Decoded = list[tuple[Record, Any]]  # each with Kafka's record


class AssignmentReader:
    """Reads the assignments topic from its own offsets, without a consumer group or commits.

    If the topic is deleted, made again or gets partitions, `poll` and `catch_up` raise a `TopicError` within 10 s: the
    table is that of a topic that is gone.

    Args:
        connector: the broker.
        from_beginning: whether to read the whole topic (the present hot set), or only records written from now on.
        until: offsets by partition; records from these offsets on are ignored.

    Attributes:
        table: the table of the records that were read.
        is_whole: whether the table is the whole hot set, which needs `from_beginning`.
        num_bad: malformed or invalid records.

    Raises:
        BrokerError: no broker answers within 10 s.
        TopicError: the topic is missing, or has another number of partitions than `importance`.
    """

    def __init__(
        self, connector: Connector, *, from_beginning: bool = True, until: Mapping[int, int] | None = None
    ) -> None:
        self._connector = connector
        self._opened = ExitStack()
        self._finalizer = weakref.finalize(self, self._opened.close)  # at exit, too, while the client's thread runs
        self._log: PartitionLog | None = None
        self._until = dict(until or {})
        self._topic = Topics(connector.prefix).assignments
        identities = require_topics(connector, [self._topic])
        self._changed: TopicChange | None = None
        self._records = self._opened.enter_context(TopicReader(connector, self._topic))
        self.table = HotTable(len(self._records.partitions), is_whole=from_beginning)
        self.is_whole = from_beginning
        self.num_bad = 0
        self._names = FeatureNames()
        self._losses = Losses()
        self._bad_records = BadRecordLog(logger)
        self._watch = self._opened.enter_context(TopicWatch(connector, identities))
        if not from_beginning:
            self._records.seek(self.end_offsets())

    def close(self) -> None:
        """Disconnects; at the latest this happens when the program ends."""
        self._finalizer()

    def __enter__(self) -> AssignmentReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def end_offsets(self) -> dict[int, int]:
        """The present end of every partition.

        Uses a second connection, which stays open; `streams.clients.partition_reader` explains why a consumer's
        `end_offsets` alone does not suffice.

        Raises:
            BrokerError: the broker does not answer or refuses, or the topic was deleted.
        """
        if self._log is None:
            log = open_partition_log(self._connector, self._watch.require_unchanged)
            self._log = self._opened.enter_context(log)
        bounds = self._log.all_bounds(self._topic, len(self._records.partitions))
        return {number: end for number, (_, end) in enumerate(bounds)}

    def stop_at(self, moment: str) -> dict[int, int]:
        """Ignores the records from a moment on (`find_offsets`); returns its offsets, at most the present ends.

        Raises:
            BrokerError: the broker does not answer.
            ConfigError: the moment is malformed.
        """
        ends = self.end_offsets()
        found = find_offsets(self._connector, self._topic, len(self._records.partitions), moment)
        self._until = {number: min(end, found[number]) for number, end in ends.items()}
        return self._until

    def positions(self) -> dict[int, int]:
        """The next offset of every partition."""
        return self._records.positions()

    @property
    def num_behind(self) -> int:
        """The number of records between the last `poll` and the end that the broker last reported."""
        return self._records.num_behind

    def poll(self, timeout_ms: int = 100) -> list[tuple[Record, Any]]:
        """Reads new records into `table`; returns digests, and the changes that counted, as (decoded, Kafka's record).

        Records of one shard are in order. At a new epoch come changes to cold of all features that were hot. Each
        change has its feature's printed form; while nothing is known of its field, the 16 hex digits of its key.

        Raises:
            BrokerError: the broker refuses.
            TopicError: the topic is no longer the one that was opened.
        """
        news: list[tuple[Record, Any]] = []
        for partition, decoded, outcome in self._fetch(timeout_ms):
            news += self._news(decoded, outcome)
            if decoded:
                news += self._correct(partition, decoded[-1][1])
        return news

    def poll_changes(self, timeout_ms: int = 0) -> Changes:
        """Reads new records into `table`; returns the changes that another table must apply to stay equal, in order.

        Raises:
            BrokerError: the broker refuses.
            TopicError: the topic is no longer the one that was opened.
        """
        parts: list[Changes] = []
        for partition, decoded, outcome in self._fetch(timeout_ms):
            parts.append(outcome.changes)
            if decoded:
                parts.append(as_changes([one for one, _ in self._correct(partition, decoded[-1][1])]))
        return Changes.concatenate(parts)

    def _fetch(self, timeout_ms: int) -> list[tuple[int, Decoded, Outcome]]:
        """The new records of each partition, and their effect on the table."""
        with self._explained():
            fetched = self._records.poll(timeout_ms)
        taken = []
        for partition, records in fetched.items():
            decoded = [(known, record) for record in records if (known := self._decode(record)) is not None]
            taken.append((partition, decoded, self._take(partition, decoded, self._records.known_end(partition))))
        return taken

    def _correct(self, partition: int, newest: Any) -> list[tuple[Assignment, Any]]:
        """Reads a partition again from its beginning, once, if a digest proves a loss; returns the changes.

        If the digest differs again, the log itself lacks a change, and the owner of the shard restates it.
        """
        view = self.table.shards[partition]
        if self._until or not self._losses.is_due(partition, differs=bool(view.differs)):
            return []
        logger.warning("%s[%d]: a digest differs, so a change was lost; reading it again", self._topic, partition)
        with open_partition_log(self._connector) as log:
            after, hot, _ = read_again(log, self._topic, partition, self.table.history, self.positions()[partition])
        self.table.shards[partition] = after
        corrections = find_corrections(view, after, hot)
        return [(self._cold(key, after), newest) if found is None else found for key, found in corrections]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Replaces the error of a broker by that of the topic, if the topic has changed.

        Raises:
            TopicError: the topic has changed, now or before.
        """
        self._require_same_topic(self._watch.take())
        try:
            yield
        except BrokerError:
            with suppress(BrokerError):  # the error being handled has the reason
                self._require_same_topic(self._watch.check())
            raise

    def _require_same_topic(self, changes: list[TopicChange]) -> None:
        self._changed = next(iter(changes), self._changed)
        if self._changed is not None:
            raise TopicError(
                f"{self._changed}; the table is that of the topic before it: start again, which reads the present one"
            )

    def _take(self, partition: int, decoded: Decoded, end_offset: int | None) -> Outcome:
        """Applies a partition's records to the table; logs those that it refuses."""
        fetch = Fetch(
            partition=partition,
            records=[known for known, _ in decoded],
            offsets=[record.offset for _, record in decoded],
            end_offset=end_offset,
        )
        outcome = self.table.take(fetch)
        for index, reason in outcome.refused.items():
            self._bad_records.add(decoded[index][1], reason)
        return outcome

    def _news(self, decoded: Decoded, outcome: Outcome) -> Decoded:
        """The digests, and the changes that counted."""
        news: Decoded = []
        for i, (known, record) in enumerate(decoded):
            if i in outcome.forgotten:
                news += [(self._cold(key, known), record) for key in outcome.forgotten[i].tolist()]
            if isinstance(known, Assignment) and outcome.counts[i]:
                news.append((self._names.completed(known), record))
            elif i in outcome.verdicts:
                news.append((known, record))
        return news

    def _cold(self, key: int, version: Record | ShardView) -> Assignment:
        """The change to cold of a feature of which no record says so, as of the version of a record or a shard."""
        name, shard = self._names.name(key), int(shard_of(np.array([key], np.uint64), len(self.table.shards))[0])
        return Assignment(key=key, tier="cold", feature=name, shard=shard, epoch=version.epoch, seq=version.seq)

    def _decode(self, record: Any) -> Record | None:
        if record.offset >= self._until.get(record.partition, record.offset + 1):
            return None
        decoded = decode_assignment(record.key, record.value, record.headers)
        if isinstance(decoded, BadRecord):
            self.num_bad += 1
            self._bad_records.add(record, decoded.reason)
        return decoded if isinstance(decoded, Record) else None

    def catch_up(self, *, timeout_s: float = 60.0, until: Mapping[int, int] | None = None) -> None:
        """Reads up to the present end of the topic, or up to the offsets `until`, by partition.

        Raises:
            BrokerError: the broker does not answer, or no record comes for `timeout_s` before the end.
            TopicError: the topic is no longer the one that was opened.
        """
        with self._explained():
            ends = dict(until) if until is not None else self.end_offsets()
        for _ in self.changes_to(ends, timeout_s=timeout_s):
            pass

    def changes_to(self, ends: Mapping[int, int], *, timeout_s: float = 60.0) -> Iterator[tuple[Assignment, Any]]:
        """The changes that `poll` gives, up to these offsets by partition at least; each with Kafka's record.

        Raises:
            BrokerError: no record comes for `timeout_s` before these offsets.
            TopicError: the topic is no longer the one that was opened.
        """
        positions, read_s = self.positions(), time.monotonic()
        while any(position < ends[number] for number, position in positions.items()):
            if time.monotonic() - read_s > timeout_s:
                behind = sum(max(0, ends[number] - position) for number, position in positions.items())
                raise BrokerError(f"{self._topic}: no record for {timeout_s:.0f} s, expected {behind:,} more")
            yield from ((change, record) for change, record in self.poll() if isinstance(change, Assignment))
            before, positions = positions, self.positions()
            if positions != before:
                read_s = time.monotonic()
