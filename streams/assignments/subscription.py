"""Following the assignments topic, as an iterator of changes or as a table.

>>> for change in subscribe("localhost:9092"):               # doctest: +SKIP
...     print(change.feature, change.tier, change.row)

>>> hot = HotFeatureTable("localhost:9092")                  # doctest: +SKIP
>>> rows = hot.lookup(keys)                                  # doctest: +SKIP
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from sketch.changes import Changes
from streams.assignments.as_of import find_offsets
from streams.assignments.columns import Fetch, Record
from streams.assignments.history import Outcome
from streams.assignments.table import HotTable
from streams.clients.config import connect
from streams.clients.connector import Connector
from streams.clients.partition_reader import PartitionLog, open_partition_log
from streams.clients.topic_identity import TopicChange, TopicWatch, require_topics
from streams.clients.topic_reader import TopicReader
from streams.errors import BrokerError, ConfigError, TopicError
from streams.keys import Keys
from streams.records import Assignment, BadRecord, decode_assignment
from streams.telemetry.bad_record_log import BadRecordLog
from streams.topics import Topics

__all__ = ["AssignmentReader", "HotFeatureTable", "subscribe"]

logger = logging.getLogger(__name__)


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
        self._finalizer = weakref.finalize(
            self, self._opened.close
        )  # at exit, too, while the client's thread still runs
        self._log: PartitionLog | None = None
        self._until = dict(until or {})
        self._topic = Topics(connector.prefix).assignments
        identities = require_topics(connector, [self._topic])
        self._changed: TopicChange | None = None
        self._records = self._opened.enter_context(TopicReader(connector, self._topic))
        self.table = HotTable(len(self._records.partitions), is_whole=from_beginning)
        self.is_whole = from_beginning
        self.num_bad = 0
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
        """
        if self._log is None:
            self._log = self._opened.enter_context(open_partition_log(self._connector))
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

        Records of one shard are in order.

        Raises:
            BrokerError: the broker refuses.
            TopicError: the topic is no longer the one that was opened.
        """
        news: list[tuple[Record, Any]] = []
        for decoded, outcome in self._fetch(timeout_ms):
            news += [pair for i, pair in enumerate(decoded) if outcome.counts[i] or i in outcome.verdicts]
        return news

    def poll_changes(self, timeout_ms: int = 0) -> Changes:
        """Reads new records into `table`; returns the changes that another table must apply to stay equal, in order.

        Raises:
            BrokerError: the broker refuses.
            TopicError: the topic is no longer the one that was opened.
        """
        return Changes.concatenate([outcome.changes for _, outcome in self._fetch(timeout_ms)])

    def _fetch(self, timeout_ms: int) -> list[tuple[list[tuple[Record, Any]], Outcome]]:
        """The new records of each partition as (decoded, Kafka's record), and their effect on the table."""
        with self._explained():
            fetched = self._records.poll(timeout_ms)
        taken = []
        for partition, records in fetched.items():
            decoded = [(known, record) for record in records if (known := self._decode(record)) is not None]
            taken.append((decoded, self._take(partition, decoded, self._records.known_end(partition))))
        return taken

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

    def _take(self, partition: int, decoded: list[tuple[Record, Any]], end_offset: int | None) -> Outcome:
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
            BrokerError: the end is not reached within `timeout_s`.
            TopicError: the topic is no longer the one that was opened.
        """
        with self._explained():
            ends = dict(until) if until is not None else self.end_offsets()
        deadline_s = time.monotonic() + timeout_s
        while any(position < ends[number] for number, position in self.positions().items()):
            if time.monotonic() > deadline_s:
                raise BrokerError(f"{self._topic}: at {self.positions()} after {timeout_s:.0f} s, expected {ends}")
            self.poll()


def subscribe(
    bootstrap_servers: str | Connector,
    *,
    prefix: str = "hotstream",
    properties: Mapping[str, str] | None = None,
    from_beginning: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Assignment]:
    """Iterates over the changes of the hot set, without an end.

    Yields the changes of one shard in order, each once. With `from_beginning` the first ones rebuild the present hot
    set; on a compacted topic these are about one change for each feature.

    Args:
        bootstrap_servers: `HOST:PORT[,HOST:PORT...]`, or a `Connector` such as an `InMemoryBroker`, which has its own
            prefix.
        prefix: the prefix of the topic names.
        properties: further Kafka client properties (security), under Kafka's own names.
        from_beginning: whether to begin with the present hot set, or with the next change.
        should_stop: called about ten times a second; the iteration ends when it returns True.

    Raises:
        BrokerError: no broker answers within 10 s.
        TopicError: the topic is missing, or it was deleted, made again or extended later.
    """
    connector = connect(bootstrap_servers, prefix, properties)
    with AssignmentReader(connector, from_beginning=from_beginning) as reader:
        while not should_stop():
            for record, _ in reader.poll():
                if isinstance(record, Assignment):
                    yield record


class HotFeatureTable:
    """A materialised view of the hot set: the constructor reads the whole topic, and `refresh` the changes since.

    Serving code calls `refresh` between requests, or in a thread with a lock around `refresh` and `lookup`.

    Args:
        bootstrap_servers: `HOST:PORT[,HOST:PORT...]`, or a `Connector` such as an `InMemoryBroker`, which has its own
            prefix.
        prefix: the prefix of the topic names.
        properties: further Kafka client properties (security), under Kafka's own names.
        timeout_s: how long reading the hot set may take.

    Raises:
        BrokerError: no broker answers, or reading takes longer than `timeout_s`.
        TopicError: the topic is missing.
    """

    def __init__(
        self,
        bootstrap_servers: str | Connector,
        *,
        prefix: str = "hotstream",
        properties: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self._connector = connect(bootstrap_servers, prefix, properties)
        self._timeout_s = timeout_s
        self._reader = AssignmentReader(self._connector)
        try:
            self._reader.catch_up(timeout_s=timeout_s)
        except BaseException:
            self._reader.close()
            raise

    def close(self) -> None:
        """Disconnects, at the latest when the program ends; the table stays readable."""
        self._reader.close()

    def __enter__(self) -> HotFeatureTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def table(self) -> HotTable:
        """The table, with `items`, `num_hot`, `is_verified` and the shards' `seq`."""
        return self._reader.table

    def refresh(self) -> int:
        """Reads up to the present end of the topic; returns the number of changes.

        Raises:
            BrokerError: the broker does not answer, or reading takes longer than `timeout_s`.
            TopicError: the topic was deleted, made again or extended; open another table.
        """
        before = sum(view.num_applied for view in self.table.shards)
        self._reader.catch_up(timeout_s=self._timeout_s)
        return sum(view.num_applied for view in self.table.shards) - before

    def lookup(self, keys: Keys) -> npt.NDArray[np.int32]:
        """The unique rows (-1 of a cold key) of keys of any shape, in their shape."""
        return self.table.lookup(keys)

    def offsets(self) -> dict[int, int]:
        """The offset of the next record of each partition; `as_of` takes these."""
        return self._reader.positions()

    def as_of(self, offsets: Mapping[int, int]) -> HotTable:
        """The hot set as it stood when the partitions ended at `offsets`.

        Exact for offsets that compaction has not reached yet.

        Raises:
            ConfigError: `offsets` lacks a partition.
            BrokerError: the partitions do not reach these offsets within `timeout_s`.
        """
        missing = set(self.offsets()) - set(offsets)
        if missing:
            raise ConfigError(
                f"as_of: no offset of partition {min(missing)}, expected one for each, as from `offsets()`"
            )
        with AssignmentReader(self._connector, until=offsets) as reader:
            reader.catch_up(timeout_s=self._timeout_s, until=offsets)
            return reader.table
