"""The clients of an `InMemoryBroker`: the methods of kafka-python's and aiokafka's clients that hotstream calls."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kafka import TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from streams.clients.in_memory_sends import Batch, Future

if TYPE_CHECKING:
    from streams.clients.in_memory import InMemoryBroker, Record

__all__ = ["AsyncConsumer", "BatchProducer", "Client", "Consumer", "Producer"]

Headers = Sequence[tuple[str, bytes]]


class Client:
    """A client that fails at every call once the broker has failed."""

    def __init__(self, broker: InMemoryBroker) -> None:
        self._broker = broker
        self._generation = broker.generation

    def _check(self) -> None:
        self._broker.check(self._generation)

    def _ask(self) -> None:
        """Checks a request for topics or offsets, which may lose its connection on demand."""
        self._check()
        self._broker.note_question()


class FoundOffset(NamedTuple):
    """What `Consumer.offsets_for_times` finds, as kafka-python's `OffsetAndTimestamp`."""

    offset: int
    timestamp: int


class Consumer(Client):
    """Reads like a `kafka.KafkaConsumer` without a group.

    Args:
        broker: the broker.
        resets: whether an offset outside the log is reset to the oldest one; otherwise `poll` raises.
        max_poll_records: the largest number of records that a `poll` returns.
    """

    def __init__(self, broker: InMemoryBroker, *, resets: bool, max_poll_records: int) -> None:
        super().__init__(broker)
        self._resets = resets
        self._max_poll_records = max_poll_records
        self._positions: dict[TopicPartition, int | None] = {}  # None: the oldest record
        self._ends: dict[TopicPartition, int] = {}
        self._num_polls = 0

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """The numbers of a topic's partitions; None if the topic does not exist."""
        self._ask()
        partitions = self._broker.topics.get(topic)
        return None if partitions is None else set(range(len(partitions)))

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        """Reads these partitions from now on; those assigned before keep their positions."""
        self._positions = {partition: self._positions.get(partition) for partition in partitions}
        self._ends = {partition: end for partition, end in self._ends.items() if partition in self._positions}

    def unsubscribe(self) -> None:
        """Unassigns all partitions and discards their positions."""
        self._positions, self._ends = {}, {}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Sets the position to an offset."""
        if partition not in self._positions:
            raise KafkaError(f"{partition} is not assigned")
        self._positions[partition] = offset

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Sets the position to the oldest record."""
        for partition in partitions or self._positions:
            self._positions[partition] = None

    def position(self, partition: TopicPartition) -> int:
        """The offset of the next record."""
        self._check()
        offset = self._positions[partition]
        return self._broker.partition(*partition).begin if offset is None else offset

    def highwater(self, partition: TopicPartition) -> int | None:
        """The end that the last `poll` reported; None before the first."""
        return self._ends.get(partition)

    def beginning_offsets(
        self, partitions: Sequence[TopicPartition], timeout_ms: int | None = None
    ) -> dict[TopicPartition, int]:
        """The first offset of each log."""
        del timeout_ms
        self._ask()
        return {partition: self._broker.partition(*partition).begin for partition in partitions}

    def end_offsets(
        self, partitions: Sequence[TopicPartition], timeout_ms: int | None = None
    ) -> dict[TopicPartition, int]:
        """The end offset of each log."""
        del timeout_ms
        self._ask()
        return {partition: self._broker.listed_end(*partition) for partition in partitions}

    def offsets_for_times(self, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, FoundOffset | None]:
        """The first record of each partition with the timestamp or a later one; None if there is none."""
        self._ask()
        found: dict[TopicPartition, FoundOffset | None] = {}
        for partition, time_ms in times.items():
            later = (r for r in self._broker.partition(*partition).records if r.timestamp >= time_ms)
            first = next(later, None)
            found[partition] = None if first is None else FoundOffset(first.offset, first.timestamp)
        return found

    def poll(
        self, timeout_ms: int = 0, max_records: int | None = None, *, partitions: Sequence[TopicPartition] = ()
    ) -> dict[TopicPartition, list[Record]]:
        """The next records by partition; returns at once, and starts with a different partition each time.

        Args:
            timeout_ms: without effect.
            max_records: the largest number of records to return.
            partitions: the partitions to read; the default is all assigned ones.

        Raises:
            OffsetOutOfRangeError: a position is outside the log, and `resets` is False.
        """
        del timeout_ms  # records of other threads are returned by a later poll
        with self._broker.lock:
            self._check()
            room, fetched = max_records or self._max_poll_records, {}
            for partition in self._next_turn(partitions or list(self._positions)):
                if partition.topic not in self._broker.topics:
                    continue  # kafka-python waits for a deleted topic
                log = self._broker.partition(*partition)
                self._ends[partition] = log.end
                start = self._in_log(partition, log.begin, log.end)
                records = self._broker.fetch(partition.topic, partition.partition, start, room)
                room -= len(records)
                if records:
                    fetched[partition] = records
                    self._positions[partition] = records[-1].offset + 1
                elif room:
                    self._positions[partition] = max(start, log.stable_end)  # compaction has removed the rest
            return fetched

    def _next_turn(self, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        self._num_polls += 1
        first = self._num_polls % len(partitions) if partitions else 0
        return [*partitions[first:], *partitions[:first]]

    def _in_log(self, partition: TopicPartition, begin: int, end: int) -> int:
        offset = self.position(partition)
        if begin <= offset <= end:
            return offset
        if not self._resets:
            raise OffsetOutOfRangeError({partition: offset})
        return begin

    def close(self, *, autocommit: bool = True, timeout_ms: int | None = None) -> None:
        """Does nothing: there is no connection."""


class AsyncConsumer:
    """Reads like an `aiokafka.AIOKafkaConsumer` without a group.

    Args:
        broker: the broker.
    """

    def __init__(self, broker: InMemoryBroker) -> None:
        self._consumer = Consumer(broker, resets=True, max_poll_records=500)
        self.assign = self._consumer.assign
        self.seek = self._consumer.seek
        self.highwater = self._consumer.highwater

    async def start(self) -> None:
        """Does nothing: there is no connection."""

    async def stop(self) -> None:
        """Does nothing: there is no connection."""

    async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offset of each log."""
        return self._consumer.beginning_offsets(partitions)

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The end offset of each log."""
        return self._consumer.end_offsets(partitions)

    async def position(self, partition: TopicPartition) -> int:
        """The offset of the next record."""
        return self._consumer.position(partition)

    async def getmany(self, *partitions: TopicPartition, timeout_ms: int = 0) -> dict[TopicPartition, list[Record]]:
        """The next records of all partitions, or of some of them; returns at once."""
        await asyncio.sleep(0)  # lets other tasks run, as a real request does
        return self._consumer.poll(timeout_ms, partitions=partitions)


class Producer(Client):
    """Sends like a `kafka.KafkaProducer`, one request a record."""

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
        """Stores a record; the future holds the error. Raises if the broker has failed before."""
        self._check()
        self._broker.partition(topic, partition)  # one that is deleted later keeps the record waiting
        items = [(key, value, headers, None)]
        return Future(lambda: self._broker.append(self._generation, topic, partition, items))

    def abandon(self) -> None:
        """Does nothing: every record is sent at once."""

    def close(self, timeout: float | None = None) -> None:
        """Does nothing: there is no connection."""


class Acknowledgement(NamedTuple):
    """The offset of the first record of a batch, as in aiokafka's `RecordMetadata`."""

    offset: int


class BatchProducer(Client):
    """Sends whole batches like an `aiokafka.AIOKafkaProducer`, one request a batch."""

    async def start(self) -> None:
        """Does nothing: there is no connection."""

    async def stop(self) -> None:
        """Does nothing: there is no connection."""

    async def partitions_for(self, topic: str) -> set[int]:
        """The numbers of a topic's partitions."""
        self._check()
        self._broker.partition(topic, 0)
        return set(range(len(self._broker.topics[topic])))

    async def answers(self) -> bool:
        """Whether the broker answers: it always does."""
        self._check()
        return True

    def create_batch(self) -> Batch:
        """An empty batch."""
        return Batch(self._broker.max_batch_records)

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> asyncio.Future[Acknowledgement]:
        """Stores a batch; the future holds the offset of its first record, or the error."""
        self._check()
        acknowledged: asyncio.Future[Acknowledgement] = asyncio.get_running_loop().create_future()
        await asyncio.sleep(0)  # lets other tasks run, as a real request does
        try:
            offset = self._broker.append(self._generation, topic, partition, batch.items)
            acknowledged.set_result(Acknowledgement(offset))
        except KafkaError as error:
            acknowledged.set_exception(error)
        return acknowledged
