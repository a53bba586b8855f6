"""The clients of an `InMemoryBroker`: the methods of kafka-python's and aiokafka's clients that hotstream calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kafka import TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError, TopicAlreadyExistsError

if TYPE_CHECKING:
    from streams.clients.in_memory import InMemoryBroker, Item, Record

__all__ = ["Admin", "AsyncConsumer", "BatchProducer", "Consumer", "Producer"]

Headers = Sequence[tuple[str, bytes]]


class _Client:
    """A client opened before the broker failed fails from then on."""

    def __init__(self, broker: InMemoryBroker) -> None:
        self._broker = broker
        self._generation = broker.generation

    def _check(self) -> None:
        self._broker.check(self._generation)


class Consumer(_Client):
    """Reads as `kafka.KafkaConsumer` does without a group.

    Args:
        broker: where from.
        resets: whether an offset that is not there becomes the oldest one; otherwise `poll` raises.
        max_poll_records: how many records a `poll` returns at most.
    """

    def __init__(self, broker: InMemoryBroker, *, resets: bool, max_poll_records: int) -> None:
        super().__init__(broker)
        self._resets = resets
        self._max_poll_records = max_poll_records
        self._positions: dict[TopicPartition, int | None] = {}  # None: the oldest record
        self._ends: dict[TopicPartition, int] = {}
        self._num_polls = 0

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """The numbers of a topic's partitions; None if there is no such topic."""
        self._check()
        partitions = self._broker.topics.get(topic)
        return None if partitions is None else set(range(len(partitions)))

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        """Reads these partitions from now on; those that it has read before go on where they stand."""
        self._positions = {partition: self._positions.get(partition) for partition in partitions}
        self._ends = {partition: end for partition, end in self._ends.items() if partition in self._positions}

    def unsubscribe(self) -> None:
        """Reads no partition, and forgets where they stood."""
        self._positions, self._ends = {}, {}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Goes on from an offset."""
        if partition not in self._positions:
            raise KafkaError(f"{partition} is not assigned")
        self._positions[partition] = offset

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Goes on from the oldest record."""
        for partition in partitions or self._positions:
            self._positions[partition] = None

    def position(self, partition: TopicPartition) -> int:
        """The offset of the next record."""
        self._check()
        offset = self._positions[partition]
        return self._broker.partition(*partition).begin if offset is None else offset

    def highwater(self, partition: TopicPartition) -> int | None:
        """The end as the last `poll` has seen it; None before there was one."""
        return self._ends.get(partition)

    def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where the logs begin."""
        self._check()
        return {partition: self._broker.partition(*partition).begin for partition in partitions}

    def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where the logs end."""
        self._check()
        return {partition: self._broker.listed_end(*partition) for partition in partitions}

    def poll(self, timeout_ms: int = 0, max_records: int | None = None) -> dict[TopicPartition, list[Record]]:
        """The next records by partition; returns at once, and begins with another partition every time.

        Raises:
            OffsetOutOfRangeError: a position is not in the log, and must not be reset.
        """
        del timeout_ms  # what comes while one waits comes from another thread, and can be polled for again
        with self._broker.lock:
            self._check()
            room, fetched = max_records or self._max_poll_records, {}
            for partition in self._next_turn():
                log = self._broker.partition(*partition)
                self._ends[partition] = log.end
                start = self._in_log(partition, log.begin, log.end)
                records = self._broker.fetch(partition.topic, partition.partition, start, room)
                room -= len(records)
                if records:
                    fetched[partition] = records
                    self._positions[partition] = records[-1].offset + 1
                elif room:
                    self._positions[partition] = log.end  # compaction has left nothing up to there
            return fetched

    def _next_turn(self) -> list[TopicPartition]:
        partitions = list(self._positions)
        self._num_polls += 1
        first = self._num_polls % len(partitions) if partitions else 0
        return partitions[first:] + partitions[:first]

    def _in_log(self, partition: TopicPartition, begin: int, end: int) -> int:
        offset = self.position(partition)
        if begin <= offset <= end:
            return offset
        if not self._resets:
            raise OffsetOutOfRangeError({partition: offset})
        return begin

    def close(self, *, autocommit: bool = True, timeout_ms: int | None = None) -> None:
        """Does nothing: there is nothing to disconnect from."""


class AsyncConsumer:
    """Reads as `aiokafka.AIOKafkaConsumer` does without a group, with a `Consumer`.

    Args:
        broker: where from.
    """

    def __init__(self, broker: InMemoryBroker) -> None:
        self._consumer = Consumer(broker, resets=True, max_poll_records=500)
        self.assign = self._consumer.assign
        self.seek = self._consumer.seek
        self.highwater = self._consumer.highwater

    async def start(self) -> None:
        """Does nothing: there is nothing to connect to."""

    async def stop(self) -> None:
        """Does nothing: there is nothing to disconnect from."""

    async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where the logs begin."""
        return self._consumer.beginning_offsets(partitions)

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where the logs end."""
        return self._consumer.end_offsets(partitions)

    async def position(self, partition: TopicPartition) -> int:
        """The offset of the next record."""
        return self._consumer.position(partition)

    async def getmany(self, *_partitions: TopicPartition, timeout_ms: int = 0) -> dict[TopicPartition, list[Record]]:
        """The next records of all partitions; returns at once."""
        await asyncio.sleep(0)  # others run while a request is under way
        return self._consumer.poll(timeout_ms)


class Future:
    """What `Producer.send` returns; it is decided by then."""

    def __init__(self, error: BaseException | None) -> None:
        self._error = error

    def add_errback(self, callback: Callable[[BaseException], None]) -> None:
        """Calls the callback if the record could not be stored."""
        if self._error is not None:
            callback(self._error)

    def get(self, timeout: float | None = None) -> None:
        """Raises what kept the record from being acknowledged."""
        del timeout
        if self._error is not None:
            raise self._error


class Producer(_Client):
    """Sends as `kafka.KafkaProducer` does, a request for each record."""

    def partitions_for(self, topic: str) -> set[int]:
        """The numbers of a topic's partitions."""
        self._check()
        self._broker.partition(topic, 0)
        return set(range(len(self._broker.topics[topic])))

    def send(
        self,
        topic: str,
        value: bytes | None = None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        partition: int = 0,
    ) -> Future:
        """Stores a record; a failure is in the future, a client that has failed before raises."""
        self._check()
        try:
            self._broker.append(self._generation, topic, partition, [(key, value, headers, None)])
        except KafkaError as error:
            return Future(error)
        return Future(None)

    def abandon(self) -> None:
        """Does nothing: nothing waits to be sent."""

    def close(self, timeout: float | None = None) -> None:
        """Does nothing: there is nothing to disconnect from."""


class Batch:
    """Records that are sent together, as `AIOKafkaProducer.create_batch` makes it."""

    def __init__(self, max_records: int) -> None:
        self._max_records = max_records
        self.items: list[Item] = []

    def append(self, *, key: bytes | None, value: bytes | None, timestamp: int | None, headers: Headers = ()) -> Any:
        """Adds a record; None if the batch is full."""
        if len(self.items) >= self._max_records:
            return None
        self.items.append((key, value, headers, timestamp))
        return self

    def record_count(self) -> int:
        """Records in the batch."""
        return len(self.items)

    def close(self) -> None:
        """Does nothing: the batch is sent as it is."""


class BatchProducer(_Client):
    """Sends whole batches as `aiokafka.AIOKafkaProducer` does, a request for each."""

    async def start(self) -> None:
        """Does nothing: there is nothing to connect to."""

    async def stop(self) -> None:
        """Does nothing: there is nothing to disconnect from."""

    async def partitions_for(self, topic: str) -> set[int]:
        """The numbers of a topic's partitions."""
        self._check()
        self._broker.partition(topic, 0)
        return set(range(len(self._broker.topics[topic])))

    def create_batch(self) -> Batch:
        """An empty batch."""
        return Batch(self._broker.max_batch_records)

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> asyncio.Future[int]:
        """Stores a batch; the future has the offset of its first record, or what kept it from being acknowledged."""
        self._check()
        acknowledged: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        await asyncio.sleep(0)  # others run while a request is under way
        try:
            acknowledged.set_result(self._broker.append(self._generation, topic, partition, batch.items))
        except KafkaError as error:
            acknowledged.set_exception(error)
        return acknowledged


class Admin(_Client):
    """Creates and describes topics as `kafka.admin.KafkaAdminClient` does."""

    def list_topics(self) -> list[str]:
        """The topics' names."""
        self._check()
        return list(self._broker.topics)

    def describe_topics(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Name and partitions of topics that exist."""
        self._check()
        return [
            {"name": name, "partitions": [{"partition": number} for number in range(len(self._broker.topics[name]))]}
            for name in names
        ]

    def describe_configs(self, resources: Sequence[Any], *, config_filter: str = "all") -> dict[str, Any]:
        """The settings that topics were created with."""
        del config_filter
        configs = {resource.name: self._broker.configs[resource.name] for resource in resources}
        return {
            "topic": {
                name: {key: {"value": value} for key, value in settings.items()} for name, settings in configs.items()
            }
        }

    def create_topics(self, wanted: Mapping[str, Mapping[str, Any]], *, wait_for_metadata: bool = True) -> None:
        """Creates topics.

        Raises:
            TopicAlreadyExistsError: one of them exists.
        """
        del wait_for_metadata
        self._check()
        if existing := set(wanted) & set(self._broker.topics):
            raise TopicAlreadyExistsError(min(existing))
        self._broker.create(wanted)

    def close(self) -> None:
        """Does nothing: there is nothing to disconnect from."""
