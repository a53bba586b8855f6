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
streams.errors.BrokerError: in-memory broker: a record was not acknowledged (the broker failed on demand)
>>> [record.value for record in broker.records("clicks", 0)]
[b'two']

Clients opened after the failure work; they stand for the clients of a restarted process.
"""

from __future__ import annotations

import threading
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from kafka.errors import KafkaError, UnknownTopicOrPartitionError

from streams.clients.in_memory_admin import Admin
from streams.clients.in_memory_clients import AsyncConsumer, BatchProducer, Consumer, Producer
from streams.clients.in_memory_log import CrashError, InterruptionError, Partition, Record
from streams.clients.in_memory_transactions import TransactionalProducer, Transactions
from streams.errors import ConfigError
from streams.telemetry.broker_waits import BrokerWaits

__all__ = ["CrashError", "InMemoryBroker", "InterruptionError", "Partition", "Record"]


@dataclass(kw_only=True)
class _Fault:
    """The failure that happens once more than `records` records are sent, to `times` requests; 0: to all clients."""

    records: int
    kind: Literal["lose record", "lose acknowledgement", "store twice"]
    times: int = 0


Item = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]], int | None]  # key, value, headers, timestamp


class InMemoryBroker:
    """Topics in memory, with clients that behave like those of kafka-python and aiokafka.

    Guarantees: the records of a partition have offsets 0, 1, 2, ..., of which the end of a transaction takes one; a
    batch is stored whole or not at all; all methods of the broker and its clients are thread-safe. A `poll` never
    waits, whatever its timeout. Readers get committed records only, and none behind an open transaction.

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
            The end of a transaction is a request, and counts as a record.
        transactions: the transactional ids and their transactions.
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
        self.waits = BrokerWaits(self.bootstrap_servers, patience_s=60.0)
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
        self._lost_questions = 0
        self.transactions = Transactions(self)
        for name, partitions in (topics or {}).items():
            self.add_topic(name, partitions)

    def add_topic(self, name: str, partitions: int, configs: Mapping[str, str] | None = None) -> None:
        """Creates an empty topic.

        Raises:
            ConfigError: a topic of this name exists.
        """
        with self.lock:
            if name in self.topics:
                raise ConfigError(f"topic {name!r} exists already, expected a new name")
            self.topics[name] = [Partition() for _ in range(partitions)]
            self.topic_ids[name] = uuid.uuid4() if self.has_topic_ids else uuid.UUID(int=0)
            self.configs[name] = dict(configs or {})

    # ---- for tests -------------------------------------------------------------------------------------------------

    def records(self, topic: str, partition: int = 0) -> list[Record]:
        """The present records of a partition that readers get, oldest first."""
        with self.lock:
            return self.fetch(topic, partition, 0, self.partition(topic, partition).end)

    def fail_now(self) -> None:
        """Makes all open clients fail from now on."""
        self.generation += 1

    def fail_after(
        self, records: int, *, lose: Literal["record", "acknowledgement"] = "record", times: int = 0
    ) -> None:
        """Makes all open clients fail at the request that exceeds `records` more records.

        Args:
            records: records that are still stored and acknowledged.
            lose: `record`: the failing request is not stored; `acknowledgement`: it is stored, not acknowledged.
            times: 0: the clients fail for ever; otherwise so many requests lose their connection, and later ones work.
        """
        kind: Literal["lose record", "lose acknowledgement"]
        kind = "lose record" if lose == "record" else "lose acknowledgement"
        self._fault = _Fault(records=self.num_sent + records, kind=kind, times=times)

    def lose_questions(self, times: int) -> None:
        """Makes the next requests for topics or offsets lose their connection, so many of them."""
        self._lost_questions = times

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

    def compact(self, topic: str, *, keeps_tombstones: bool = True) -> None:
        """Keeps only the last record of each key, as compaction does at its most thorough.

        Args:
            topic: the topic.
            keeps_tombstones: whether tombstones stay, as they do until `delete.retention.ms` has passed.
        """
        with self.lock:
            for log in self.topics[topic]:
                end = log.stable_end  # Kafka compacts no further, either
                newest = {record.key: record.offset for record in log.records if record.offset < end}
                log.records = [
                    record
                    for record in log.records
                    if record.offset >= end
                    or (record.offset == newest[record.key] and (keeps_tombstones or record.value is not None))
                ]

    # ---- a `Connector` ---------------------------------------------------------------------------------------------

    def open_consumer(
        self, *, auto_offset_reset: str = "earliest", max_poll_records: int = 500, reads_to_end: bool = False
    ) -> Consumer:
        """See `Connector.open_consumer`."""
        del reads_to_end  # every poll reports them
        return Consumer(self, resets=auto_offset_reset == "earliest", max_poll_records=max_poll_records)

    def create_async_consumer(self) -> AsyncConsumer:
        """See `Connector.create_async_consumer`."""
        return AsyncConsumer(self)

    def open_producer(self, *, transactional_id: str | None = None) -> Producer:
        """See `Connector.open_producer`."""
        return Producer(self) if transactional_id is None else TransactionalProducer(self, transactional_id)

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

    def note_question(self) -> None:
        """Notes a request for topics or offsets.

        Raises:
            InterruptionError: it fails on demand.
        """
        with self.lock:
            if self._lost_questions:
                self._lost_questions -= 1
                raise InterruptionError(is_stored=False)

    def append(self, generation: int, topic: str, partition: int, items: Sequence[Item]) -> int:
        """Stores one request; returns the offset of its first record.

        Raises:
            CrashError: this request, or an earlier one, fails on demand.
            InterruptionError: this request alone fails on demand.
            UnknownTopicOrPartitionError: topic or partition does not exist.
        """
        with self.requested(generation, len(items)) as kind:
            log = self.partition(topic, partition)
            first = self._store(log, topic, partition, items)
            if kind == "store twice":
                self._store(log, topic, partition, items)
            return first

    @contextmanager
    def requested(self, generation: int, records: int) -> Iterator[str | None]:
        """Runs the `with` block as one request, under the lock; returns the kind of the fault that happens at it.

        Raises:
            CrashError: this request, or an earlier one, fails on demand.
        """
        with self.lock:
            self.check(generation)
            self.crash_points.append(self.num_sent)
            kind, fault = self._due_fault(records)
            if kind == "lose record":
                raise self._failure(fault, is_stored=False)
            yield kind
            self.num_sent += records
            if kind == "lose acknowledgement":
                raise self._failure(fault, is_stored=True)

    def _due_fault(self, records: int) -> tuple[str | None, _Fault | None]:
        fault = self._fault
        if fault is None or self.num_sent + records <= fault.records:
            return None, None
        fault.times -= 1
        self._fault = fault if fault.times > 0 else None
        return fault.kind, fault

    def _failure(self, fault: _Fault | None, *, is_stored: bool) -> KafkaError:
        if fault is not None and fault.times >= 0:  # counted down from `times`, 1 at least
            return InterruptionError(is_stored=is_stored)
        self.fail_now()
        return CrashError()

    def _store(self, log: Partition, topic: str, partition: int, items: Sequence[Item]) -> int:
        log.last_batch = log.end
        for key, value, headers, timestamp_ms in items:
            stamp = self._clock_ms() if timestamp_ms is None else timestamp_ms
            log.records.append(Record(topic, partition, log.end, stamp, key, value, list(headers)))
            log.end += 1
        return log.last_batch

    def fetch(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        """At most `limit` records from an offset on, up to the first that is not decided yet."""
        log = self.partition(topic, partition)
        first, end = (bisect_left(log.records, bound, key=lambda record: record.offset)
                      for bound in (offset, log.stable_end))  # fmt: skip
        return log.records[first : min(end, first + limit)]

    def listed_end(self, topic: str, partition: int) -> int:
        """The end offset that `end_offsets` returns."""
        log = self.partition(topic, partition)
        return min(log.last_batch, log.stable_end) if self.lists_last_batch else log.stable_end

    def create(self, wanted: Mapping[str, Mapping[str, Any]]) -> None:
        """Creates topics from the arguments of `KafkaAdminClient.create_topics`."""
        with self.lock:
            for name, settings in wanted.items():
                self.add_topic(name, settings["num_partitions"], settings["configs"])
