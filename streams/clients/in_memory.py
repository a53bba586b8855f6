"""An in-process broker for tests of code that reads or writes Kafka, with failures on demand.

>>> from streams.clients.in_memory import InMemoryBroker
>>> from streams.clients.producer import RecordProducer
>>> broker = InMemoryBroker({"clicks": 2})
>>> with RecordProducer(broker) as producer:
...     producer.send("clicks", 1, b"one", [])
>>> [record.value for record in broker.records("clicks", 1)]
[b'one']

An `InMemoryBroker` is a `Connector`, so everything that accepts a `KafkaConfig` accepts it, too: `subscribe(broker)`
and `HotFeatureTable(broker)` read the records that a test has written. `fail_after` makes it fail at a chosen record:

>>> broker.fail_after(1)                          # one more record is stored, then all open clients fail
>>> with RecordProducer(broker) as producer:
...     producer.send("clicks", 0, b"two", [])
...     producer.send("clicks", 0, b"lost", [])
Traceback (most recent call last):
streams.errors.BrokerError: in-memory broker: a record was not acknowledged within 60 s (the broker failed on demand)
>>> [record.value for record in broker.records("clicks", 0)]
[b'two']

Clients opened after the failure work; they stand for the clients of a restarted process.
"""

from __future__ import annotations

import threading
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from kafka.errors import KafkaError, UnknownTopicOrPartitionError

from streams.clients.in_memory_admin import Admin
from streams.clients.in_memory_clients import AsyncConsumer, BatchProducer, Consumer, Producer
from streams.errors import ConfigError

__all__ = ["CrashError", "InMemoryBroker", "Partition", "Record"]


class CrashError(KafkaError):
    """The broker has failed on demand; every later call of a client opened before raises this again."""

    def __str__(self) -> str:
        return "the broker failed on demand"


class Record(NamedTuple):
    """A stored record, with the attributes of kafka-python's `ConsumerRecord` that hotstream reads."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


@dataclass(kw_only=True)
class Partition:
    """A partition's log.

    Attributes:
        records: in the order of their offsets, which may have gaps.
        begin: the first offset of the log; compaction may have removed its record.
        end: the offset of the next record to be stored.
        last_batch: the offset of the first record of the last batch.
    """

    records: list[Record] = field(default_factory=list)
    begin: int = 0
    end: int = 0
    last_batch: int = 0


@dataclass(kw_only=True)
class _Fault:
    """The failure that happens once more than `records` records are sent."""

    records: int
    kind: Literal["lose record", "lose acknowledgement", "store twice"]


Item = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]], int | None]  # key, value, headers, timestamp


class InMemoryBroker:
    """Topics in memory, with clients that behave like those of kafka-python and aiokafka.

    Guarantees: the records of a partition have offsets 0, 1, 2, ...; a batch is stored whole or not at all; all methods
    of the broker and its clients are thread-safe. A `poll` never waits, whatever its timeout.

    Args:
        topics: partitions by topic name; `create_topics` of `streams.clients.admin` works as well.
        prefix: the prefix of hotstream's topic names.
        max_batch_records: records in a batch of `BatchProducer`; with 1, the broker can fail at every record.
        lists_last_batch: whether `end_offsets` gives the first record of the last batch, as the embedded broker does.
        clock_ms: the wall clock, for records without a timestamp.
        has_topic_ids: whether topics have ids, as in Kafka since 2.8.

    Attributes:
        num_sent: records sent and stored so far, without copies.
        crash_points: `num_sent` before each request so far; pass these to `fail_after` to fail at every request.
        topics: the partitions of each topic.
        topic_ids: the id of each topic, another one each time it is created; zero without ids.
    """

    bootstrap_servers = "in-memory broker"

    def __init__(
        self,
        topics: Mapping[str, int] | None = None,
        *,
        prefix: str = "hotstream",
        max_batch_records: int = 1000,
        lists_last_batch: bool = False,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        has_topic_ids: bool = True,
    ) -> None:
        self.prefix = prefix
        self.max_batch_records = max_batch_records
        self.num_sent = 0
        self.crash_points: list[int] = []
        self.topics: dict[str, list[Partition]] = {}
        self.topic_ids: dict[str, uuid.UUID] = {}
        self.configs: dict[str, dict[str, str]] = {}
        self.has_topic_ids = has_topic_ids
        self.lists_last_batch = lists_last_batch
        self.lock = threading.RLock()
        self.generation = 0
        self._clock_ms = clock_ms
        self._fault: _Fault | None = None
        for name, partitions in (topics or {}).items():
            self.add_topic(name, partitions)

    def add_topic(self, name: str, partitions: int, configs: Mapping[str, str] | None = None) -> None:
        """Creates an empty topic.

        Raises:
            ConfigError: a topic of this name exists.
        """
        if name in self.topics:
            raise ConfigError(f"topic {name!r} exists already, expected a new name")
        self.topics[name] = [Partition() for _ in range(partitions)]
        self.topic_ids[name] = uuid.uuid4() if self.has_topic_ids else uuid.UUID(int=0)
        self.configs[name] = dict(configs or {})

    # ---- for tests -------------------------------------------------------------------------------------------------

    def records(self, topic: str, partition: int = 0) -> list[Record]:
        """The present records of a partition, oldest first."""
        with self.lock:
            return list(self.partition(topic, partition).records)

    def fail_now(self) -> None:
        """Makes all open clients fail from now on."""
        self.generation += 1

    def fail_after(self, records: int, *, lose: Literal["record", "acknowledgement"] = "record") -> None:
        """Makes all open clients fail at the request that exceeds `records` more records.

        Args:
            records: records that are still stored and acknowledged.
            lose: `record`: the failing request is not stored; `acknowledgement`: it is stored, not acknowledged.
        """
        self._fault = _Fault(
            records=self.num_sent + records, kind="lose record" if lose == "record" else "lose acknowledgement"
        )

    def store_twice_after(self, records: int) -> None:
        """Stores the request that exceeds `records` more records twice, as a retry may do."""
        self._fault = _Fault(records=self.num_sent + records, kind="store twice")

    @property
    def is_fault_due(self) -> bool:
        """Whether a requested fault has not happened yet."""
        return self._fault is not None

    def cancel_fault(self) -> None:
        """Cancels a requested fault that has not happened."""
        self._fault = None

    def delete_topic(self, name: str) -> None:
        """Deletes a topic with its records."""
        with self.lock:
            del self.topics[name], self.topic_ids[name], self.configs[name]

    def add_partitions(self, name: str, partitions: int) -> None:
        """Adds empty partitions to a topic, which has `partitions` afterwards."""
        with self.lock:
            self.topics[name] += [Partition() for _ in range(partitions - len(self.topics[name]))]

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Deletes the records before an offset, as retention does."""
        with self.lock:
            log = self.partition(topic, partition)
            log.records = [record for record in log.records if record.offset >= offset]
            log.begin = offset

    def compact(self, topic: str) -> None:
        """Keeps only the last record of each key, as compaction does at its most thorough (tombstones stay)."""
        with self.lock:
            for log in self.topics[topic]:
                newest = {record.key: record.offset for record in log.records}
                log.records = [record for record in log.records if record.offset == newest[record.key]]

    # ---- a `Connector` ---------------------------------------------------------------------------------------------

    def open_consumer(
        self, *, auto_offset_reset: str = "earliest", max_poll_records: int = 500, repeats_ends: bool = False
    ) -> Consumer:
        """See `Connector.open_consumer`."""
        del repeats_ends  # every poll reports them
        return Consumer(self, resets=auto_offset_reset == "earliest", max_poll_records=max_poll_records)

    def create_async_consumer(self) -> AsyncConsumer:
        """See `Connector.create_async_consumer`."""
        return AsyncConsumer(self)

    def open_producer(self, *, delivery_timeout_s: float = 60.0) -> Producer:
        """See `Connector.open_producer`."""
        del delivery_timeout_s  # nothing takes time
        return Producer(self)

    def create_batch_producer(self) -> BatchProducer:
        """See `Connector.create_batch_producer`."""
        return BatchProducer(self)

    def open_admin(self, *, timeout_ms: int = 10_000) -> Admin:
        """See `Connector.open_admin`."""
        del timeout_ms
        return Admin(self)

    # ---- for its clients -------------------------------------------------------------------------------------------

    def partition(self, topic: str, partition: int) -> Partition:
        """A partition's log.

        Raises:
            UnknownTopicOrPartitionError: topic or partition does not exist.
        """
        try:
            return self.topics[topic][partition]
        except (KeyError, IndexError):
            raise UnknownTopicOrPartitionError(f"{topic}[{partition}]") from None

    def check(self, generation: int) -> None:
        """Checks that a client opened in `generation` still works.

        Raises:
            CrashError: the broker has failed since.
        """
        if generation != self.generation:
            raise CrashError

    def append(self, generation: int, topic: str, partition: int, items: Sequence[Item]) -> int:
        """Stores one request; returns the offset of its first record.

        Raises:
            CrashError: this request, or an earlier one, fails on demand.
            UnknownTopicOrPartitionError: topic or partition does not exist.
        """
        with self.lock:
            self.check(generation)
            log, fault = self.partition(topic, partition), self._fault
            self.crash_points.append(self.num_sent)
            is_due = fault is not None and self.num_sent + len(items) > fault.records
            kind = fault.kind if fault is not None and is_due else None
            if is_due:
                self._fault = None
            if kind == "lose record":
                self.fail_now()
                raise CrashError
            first = self._store(log, topic, partition, items)
            self.num_sent += len(items)
            if kind == "store twice":
                self._store(log, topic, partition, items)
            if kind == "lose acknowledgement":
                self.fail_now()
                raise CrashError
            return first

    def _store(self, log: Partition, topic: str, partition: int, items: Sequence[Item]) -> int:
        log.last_batch = log.end
        for key, value, headers, timestamp_ms in items:
            stamp = self._clock_ms() if timestamp_ms is None else timestamp_ms
            log.records.append(Record(topic, partition, log.end, stamp, key, value, list(headers)))
            log.end += 1
        return log.last_batch

    def fetch(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        """At most `limit` records from an offset on."""
        records = self.partition(topic, partition).records
        first = bisect_left(records, offset, key=lambda record: record.offset)
        return records[first : first + limit]

    def listed_end(self, topic: str, partition: int) -> int:
        """The end offset that `end_offsets` returns."""
        log = self.partition(topic, partition)
        return log.last_batch if self.lists_last_batch else log.end

    def create(self, wanted: Mapping[str, Mapping[str, Any]]) -> None:
        """Creates topics from the arguments of `KafkaAdminClient.create_topics`."""
        with self.lock:
            for name, settings in wanted.items():
                self.add_topic(name, settings["num_partitions"], settings["configs"])
