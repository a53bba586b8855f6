"""A topic read from our own offsets: every partition assigned by hand, nothing committed, records kept until taken."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple

from kafka import TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from streams.clients.connector import Connector
from streams.clients.partition_reader import is_at_end
from streams.clients.worker import Worker
from streams.errors import BrokerError

__all__ = ["Taken", "TopicFeed"]

logger = logging.getLogger(__name__)

_STALL_S = 30.0


class _Chunk:
    """Records of one partition that came together, decoded together in another thread."""

    def __init__(self, records: list[Any], log_end: int) -> None:
        self.records = records
        self.log_end = log_end
        self.said: list[Any] = []
        self.is_ready = threading.Event()

    def decode(self, decode: Callable[[Any], Any]) -> None:
        """Decodes all of them."""
        try:
            self.said = [decode(record) for record in self.records]
        finally:
            self.is_ready.set()


class Taken(NamedTuple):
    """A record, and what it says."""

    record: Any
    chunk: _Chunk
    place: int

    @property
    def said(self) -> Any:
        """The decoded record; waits for it."""
        self.chunk.is_ready.wait()
        return self.chunk.said[self.place]

    @property
    def log_end(self) -> int:
        """The end of the record's partition when the record was fetched."""
        return self.chunk.log_end


class TopicFeed:
    """The records of one topic that have not been taken yet, by partition, decoded by the time they are.

    An offset here is always that of the next record to take, so what a checkpoint holds is where to go on reading.

    Args:
        connector: the broker.
        topic: which must exist.
        num_partitions: its partitions.
        offsets: where to begin in each partition; the oldest record where none is given.
        max_records: how many to hold before no more are fetched.
        decode: what makes of a record what it says; done by `worker`.
        worker: the thread that decodes.

    Raises:
        BrokerError: nobody answers within 10 s.
    """

    def __init__(
        self,
        connector: Connector,
        topic: str,
        num_partitions: int,
        *,
        offsets: Mapping[int, int],
        max_records: int,
        decode: Callable[[Any], Any],
        worker: Worker,
    ) -> None:
        self.topic = topic
        self._servers = connector.bootstrap_servers
        self._max_records = max_records
        self._decode, self._worker = decode, worker
        self._places = [TopicPartition(topic, number) for number in range(num_partitions)]
        self._waiting: dict[int, deque[Taken]] = {place.partition: deque() for place in self._places}
        # An offset that is not there must not become another one in silence.
        self._consumer = connector.open_consumer(auto_offset_reset="none")
        try:
            self._consumer.assign(self._places)
            self.offsets = self._seek(offsets)
        except KafkaError as error:
            raise BrokerError(f"{self._servers}: {topic}: {error or type(error).__name__}") from error

    def __enter__(self) -> TopicFeed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close(autocommit=False, timeout_ms=2000)

    def _seek(self, offsets: Mapping[int, int]) -> dict[int, int]:
        """Goes to the offsets, and says so where retention has been quicker."""
        oldest, ends = self._consumer.beginning_offsets(self._places), self._consumer.end_offsets(self._places)
        starts = {}
        for place in self._places:
            wanted = offsets.get(place.partition, oldest[place])
            if wanted > ends[place] == 0:
                raise self._foreign(place.partition, wanted)
            if wanted < oldest[place]:
                lost = oldest[place] - wanted
                logger.warning("%s[%d]: %d records were deleted before they were read", self.topic, place[1], lost)
            starts[place.partition] = max(wanted, oldest[place])
            self._consumer.seek(place, starts[place.partition])
        return starts

    def _foreign(self, partition: int, offset: int) -> BrokerError:
        return BrokerError(
            f"{self.topic}[{partition}] has no offset {offset}, where the checkpoint stands: this is not the topic "
            "that it was trained from; name that broker, or start with --fresh"
        )

    @property
    def num_waiting(self) -> int:
        """Records fetched and not taken."""
        return sum(map(len, self._waiting.values()))

    def fetch(self, timeout_ms: int = 0, limit: int | None = None) -> int:
        """Fetches what there is, if there is room, at most `limit`; returns how many records came.

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
            place, offset = next(iter(error.args[0].items()))
            raise self._foreign(place.partition, offset) from error
        except KafkaError as error:
            said = error or type(error).__name__
            raise BrokerError(f"{self._servers}: reading {self.topic} failed ({said})") from error
        for place, records in fetched.items():
            chunk = _Chunk(records, self._consumer.highwater(place) or 0)
            self._worker.submit(chunk.decode, self._decode)
            self._waiting[place.partition].extend(Taken(record, chunk, i) for i, record in enumerate(records))
        return sum(map(len, fetched.values()))

    def oldest(self) -> int | None:
        """The partition whose next record is the oldest of those that wait; None if none does."""
        heads = [(takes[0].record.timestamp, partition) for partition, takes in self._waiting.items() if takes]
        return min(heads)[1] if heads else None

    def take(self, partition: int) -> Taken:
        """The next record of a partition, which must have one waiting."""
        taken = self._waiting[partition].popleft()
        self.offsets[partition] = taken.record.offset + 1
        return taken

    def take_all(self, limit: int) -> list[Taken]:
        """All records that wait, at most `limit`, partition by partition."""
        taken: list[Taken] = []
        for partition, records in self._waiting.items():
            while records and len(taken) < limit:
                taken.append(self.take(partition))
        return taken

    def take_until(self, ends: Mapping[int, int]) -> list[Taken]:
        """The records before the given offset of each partition; waits for them.

        Raises:
            BrokerError: one does not come within 30 s.
        """
        deadline_s = time.monotonic() + _STALL_S
        while any(not self._reaches(partition, end) for partition, end in ends.items()):
            if self.fetch(100):
                deadline_s = time.monotonic() + _STALL_S
            elif self.num_waiting >= self._max_records:
                self._max_records *= 2  # what we wait for is behind what we hold
            elif time.monotonic() > deadline_s:
                raise BrokerError(
                    f"{self._servers}: {self.topic} has no records up to {dict(ends)}; start with --fresh"
                )
        taken = []
        for partition, end in ends.items():
            while self._waiting[partition] and self._waiting[partition][0].record.offset < end:
                taken.append(self.take(partition))
            self.offsets[partition] = max(self.offsets[partition], end)  # compaction may have left nothing there
        return taken

    def _reaches(self, partition: int, end: int) -> bool:
        waiting = self._waiting[partition]
        if waiting and waiting[-1].record.offset >= end - 1:
            return True
        return self._consumer.position(TopicPartition(self.topic, partition)) >= end

    def lag(self) -> int:
        """Records that the topic holds beyond what was taken, as far as the last fetch has said."""
        marks = {place.partition: self._consumer.highwater(place) for place in self._places}
        return sum(max(0, mark - self.offsets[number]) for number, mark in marks.items() if mark is not None)

    def is_at_end(self) -> bool:
        """Whether everything that the topic holds now was taken. Asks the broker, so ask only when nothing comes.

        Raises:
            BrokerError: the broker does not say.
        """
        if self.num_waiting:
            return False
        try:
            return is_at_end(self._consumer, self._places)
        except KafkaError as error:
            raise BrokerError(f"{self._servers}: {self.topic}: {error or type(error).__name__}") from error
