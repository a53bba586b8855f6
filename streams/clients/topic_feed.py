"""Reads a topic from the caller's offsets, without commits, and holds its records until the caller takes them."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple

from kafka import TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from streams.clients.connector import Connector
from streams.clients.partition_reader import is_at_end
from streams.clients.patience import Stall, ask, ask_once
from streams.clients.refusals import explain_refusal
from streams.clients.worker import Worker
from streams.errors import BrokerError, InvariantError

__all__ = ["Taken", "TopicFeed"]

logger = logging.getLogger(__name__)


class _Chunk:
    """The records of one partition in one fetch, decoded in another thread."""

    def __init__(self, records: list[Any], log_end: int) -> None:
        self.records = records
        self.log_end = log_end
        self.decoded: list[Any] = []
        self.is_ready = threading.Event()

    def decode(self, decode: Callable[[Any], Any]) -> None:
        """Decodes all records."""
        try:
            self.decoded = [decode(record) for record in self.records]
        finally:
            self.is_ready.set()


class Taken(NamedTuple):
    """A record and its decoded form."""

    record: Any
    chunk: _Chunk
    position: int

    @property
    def decoded(self) -> Any:
        """The decoded record; waits until it is decoded."""
        self.chunk.is_ready.wait()
        return self.chunk.decoded[self.position]

    @property
    def log_end(self) -> int:
        """The end of the record's partition when the record was fetched."""
        return self.chunk.log_end


class TopicFeed:
    """The records of one topic that the caller has not taken yet, by partition, decoded in advance.

    All offsets are those of the next record to take, so a checkpoint that stores them can resume from them.

    Args:
        connector: the broker.
        topic: the topic, which must exist.
        num_partitions: its number of partitions.
        is_mine: whether to read a partition; None for all of them.
        offsets: the first offset to read, by partition; the default is the oldest record.
        max_records: the largest number of records to hold.
        decode: decodes a record; called by `worker`.
        worker: the thread that decodes.

    Attributes:
        offsets: the offset of the next record to take, by partition.
        newest_ms: Kafka's time of the record taken last; None before the first.

    Raises:
        BrokerError: no broker answers within 10 s.
    """

    def __init__(
        self,
        connector: Connector,
        topic: str,
        num_partitions: int,
        *,
        is_mine: Callable[[int], bool] | None = None,
        offsets: Mapping[int, int],
        max_records: int,
        decode: Callable[[Any], Any],
        worker: Worker,
    ) -> None:
        self.topic = topic
        self.newest_ms: int | None = None
        self._servers, self._waits = connector.bootstrap_servers, connector.waits
        self._max_records = max_records
        self._decode, self._worker = decode, worker
        self._is_mine, self._num_partitions = is_mine or (lambda _number: True), num_partitions
        self._partitions = self._choose(range(num_partitions))
        self._waiting: dict[int, deque[Taken]] = {partition.partition: deque() for partition in self._partitions}
        # An offset outside the log must raise, not be reset silently.
        self._consumer = connector.open_consumer(auto_offset_reset="none")
        try:
            self._consumer.assign(self._partitions)
            self.offsets = self._seek(offsets)
        except KafkaError as error:
            raise BrokerError(f"{self._servers}: {topic}: {explain_refusal(error, 'READ', topic)}") from error

    def __enter__(self) -> TopicFeed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close(autocommit=False, timeout_ms=2000)

    def _choose(self, numbers: Iterable[int]) -> list[TopicPartition]:
        """Those of the partitions that are to be read."""
        return [TopicPartition(self.topic, number) for number in numbers if self._is_mine(number)]

    def _seek(self, offsets: Mapping[int, int]) -> dict[int, int]:
        """Seeks to the offsets; warns where retention has deleted records before they were read."""
        oldest = ask(self._consumer.beginning_offsets, self._partitions, self._waits)
        ends = ask(self._consumer.end_offsets, self._partitions, self._waits)
        starts = {}
        for partition in self._partitions:
            number = partition.partition
            wanted = offsets.get(number, oldest[partition])
            if wanted > ends[partition] == 0:
                raise self._foreign(number, wanted)
            if wanted < oldest[partition]:
                self._warn_of_deleted(number, oldest[partition] - wanted)
            starts[number] = max(wanted, oldest[partition])
            self._consumer.seek(partition, starts[number])
        return starts

    def _warn_of_deleted(self, partition: int, lost: int) -> None:
        logger.warning("%s[%d]: %d records were deleted before they were read", self.topic, partition, lost)

    def _skip_deleted(self, error: OffsetOutOfRangeError) -> None:
        """Continues at the oldest record of partitions from which retention has deleted the next one.

        Raises:
            BrokerError: the position is beyond the end. The caller asks whether it is still the same topic.
        """
        for partition, offset in error.args[0].items():
            number = partition.partition
            oldest = ask(self._consumer.beginning_offsets, [partition], self._waits)[partition]
            if offset >= oldest:
                raise self._foreign(number, offset) from error
            self._warn_of_deleted(number, oldest - offset)
            self._consumer.seek(partition, oldest)
            if not self._waiting[number]:
                self.offsets[number] = oldest

    def _foreign(self, partition: int, offset: int) -> BrokerError:
        return BrokerError(
            f"{self.topic}[{partition}] ends before offset {offset}, at which reading continues: this is another "
            "broker, it has lost records, or the topic was made again and has no id (before Kafka 2.8); name the "
            "broker of the checkpoint, or start with --fresh, which begins a new model"
        )

    def add_partitions(self, num_partitions: int) -> None:
        """Reads the partitions up to this number, too, which were added to the topic, from their oldest record.

        Raises:
            BrokerError: the broker refuses.
        """
        added = self._choose(range(self._num_partitions, num_partitions))
        self._num_partitions = max(self._num_partitions, num_partitions)
        try:
            self._partitions += added
            self._consumer.assign(self._partitions)
            for partition, oldest in ask(self._consumer.beginning_offsets, added, self._waits).items():
                self._waiting[partition.partition] = deque()
                self._consumer.seek(partition, oldest)
                self.offsets[partition.partition] = oldest
        except KafkaError as error:
            raise BrokerError(f"{self._servers}: {self.topic}: {explain_refusal(error, 'READ', self.topic)}") from error

    def ends(self) -> dict[int, int]:
        """The present ends of the partitions as the broker lists them.

        Raises:
            BrokerError: the broker refuses.
        """
        try:
            listed = ask(self._consumer.end_offsets, self._partitions, self._waits)
        except KafkaError as error:
            raise BrokerError(f"{self._servers}: {self.topic}: {explain_refusal(error, 'READ', self.topic)}") from error
        return {partition.partition: end for partition, end in listed.items()}

    @property
    def num_waiting(self) -> int:
        """The number of records fetched and not taken."""
        return sum(map(len, self._waiting.values()))

    def fetch(self, timeout_ms: int = 0, limit: int | None = None) -> int:
        """Fetches available records, at most `limit` and as many as there is room for; returns their number.

        Raises:
            BrokerError: the broker refuses.
        """
        room = self._max_records - self.num_waiting
        if room <= 0:
            return 0
        if limit is not None:
            room = min(room, limit)
        try:
            fetched = self._consumer.poll(timeout_ms=timeout_ms, max_records=room)
        except OffsetOutOfRangeError as error:
            self._skip_deleted(error)
            return 0
        except KafkaError as error:
            reason = explain_refusal(error, "READ", self.topic)
            raise BrokerError(f"{self._servers}: reading {self.topic} failed ({reason})") from error
        for partition, records in fetched.items():
            chunk = _Chunk(records, self._consumer.highwater(partition) or 0)
            self._worker.submit(chunk.decode, self._decode)
            self._waiting[partition.partition].extend(Taken(record, chunk, i) for i, record in enumerate(records))
        return sum(map(len, fetched.values()))

    def oldest(self) -> int | None:
        """The partition with the oldest next record; None if no record is waiting."""
        heads = [(takes[0].record.timestamp, partition) for partition, takes in self._waiting.items() if takes]
        return min(heads)[1] if heads else None

    def in_order(self) -> Iterator[Taken]:
        """The waiting records in the order of `take_oldest`, which stay."""
        return heapq.merge(*self._waiting.values(), key=lambda taken: (taken.record.timestamp, taken.record.partition))

    def make_room(self) -> bool:
        """Holds twice as many records from now on, if there is no room for another one; returns whether that was so."""
        is_full = self.num_waiting >= self._max_records
        if is_full:
            self._max_records *= 2
        return is_full

    def take_oldest(self) -> Taken:
        """Takes the oldest next record; one must be waiting."""
        partition = self.oldest()
        if partition is None:
            raise InvariantError(f"{self.topic}: no record is waiting, expected at least one")
        return self.take(partition)

    def take(self, partition: int) -> Taken:
        """Takes the next record of a partition, which must have one waiting."""
        taken = self._waiting[partition].popleft()
        self.offsets[partition] = taken.record.offset + 1
        self.newest_ms = taken.record.timestamp
        return taken

    def take_all(self, limit: int) -> list[Taken]:
        """Takes all waiting records, at most `limit`, partition by partition."""
        taken: list[Taken] = []
        for partition, records in self._waiting.items():
            while records and len(taken) < limit:
                taken.append(self.take(partition))
        return taken

    def take_until(self, ends: Mapping[int, int]) -> list[Taken]:
        """Takes the records before the given offset of each partition; waits for them.

        Raises:
            BrokerError: no record arrives for 30 s from a broker that answers.
        """
        stall = Stall(self._consumer, self._partitions, self._waits)
        while any(not self._reaches(partition, end) for partition, end in ends.items()):
            if self.fetch(100):
                stall.note_records()
            elif self.make_room():  # the records to wait for come after those held
                continue
            elif stall.is_over:
                raise BrokerError(
                    f"{self._servers}: {self.topic} has no records up to {dict(ends)}; start with --fresh"
                )
        taken = []
        for partition, end in ends.items():
            while self._waiting[partition] and self._waiting[partition][0].record.offset < end:
                taken.append(self.take(partition))
            self.offsets[partition] = max(self.offsets[partition], end)  # compaction may have removed the last records
        return taken

    def _reaches(self, partition: int, end: int) -> bool:
        waiting = self._waiting[partition]
        if waiting and waiting[-1].record.offset >= end - 1:
            return True
        return self._consumer.position(TopicPartition(self.topic, partition)) >= end

    def lag(self) -> int:
        """The number of records not taken yet. Asks the broker: call it about once a second.

        The ends that the last fetch reported are old where records wait here, that is, when the lag is large. They are
        used while the broker does not answer.

        Raises:
            BrokerError: the broker refuses.
        """
        listed: Mapping[TopicPartition, int] = {}
        if not self._waits.is_suspected:
            try:
                listed = ask_once(self._consumer.end_offsets, self._partitions, self._waits, time.monotonic()) or listed
            except KafkaError as error:
                reason = explain_refusal(error, "READ", self.topic)
                raise BrokerError(f"{self._servers}: {self.topic}: {reason}") from error
        return sum(
            max(0, max(listed.get(partition, 0), self._consumer.highwater(partition) or 0) - self._taken_to(partition))
            for partition in self._partitions
        )

    def _taken_to(self, partition: TopicPartition) -> int:
        """The offset up to which all records of a partition were taken, the ends of transactions included."""
        number = partition.partition
        if waiting := self._waiting[number]:
            return int(waiting[0].record.offset)
        return max(self.offsets[number], self._consumer.position(partition))

    def is_at_end(self) -> bool:
        """Whether all present records of the topic were taken. Asks the broker: call it only when no record comes.

        Raises:
            BrokerError: the broker refuses.
        """
        if self.num_waiting:
            return False
        try:
            return is_at_end(self._consumer, self._partitions, self._waits)
        except KafkaError as error:
            raise BrokerError(f"{self._servers}: {self.topic}: {explain_refusal(error, 'READ', self.topic)}") from error
