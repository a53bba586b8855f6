"""Reads a topic's partitions as what they are, logs: a range of offsets, or from the newest record back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from streams.clients.config import KafkaConfig
from streams.errors import BrokerError
from streams.records import MAX_RECORD_BYTES

__all__ = ["PartitionLog", "open_partition_log"]

_CONNECT_TIMEOUT_MS = 10_000
_STALL_S = 30.0
_MAX_GROWN_WINDOW = 64


class PartitionLog:
    """What a topic holds, read without any consumer group."""

    def __init__(self, consumer: Any, servers: str) -> None:
        self._consumer = consumer
        self._servers = servers

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The offset of the oldest record of a partition, and the one after the newest; see `all_bounds`."""
        return self._bounds([TopicPartition(topic, partition)])[0]

    def all_bounds(self, topic: str, partitions: int) -> list[tuple[int, int]]:
        """The offset of the oldest record of each partition, and the one after the newest.

        The end is what a fetch says it is: the embedded broker lists the *first* record of its last batch as the
        newest, so `end_offsets` alone would hide the rest of that batch.

        Raises:
            BrokerError: the broker does not say within 30 s.
        """
        return self._bounds([TopicPartition(topic, partition) for partition in range(partitions)])

    def _bounds(self, places: list[TopicPartition]) -> list[tuple[int, int]]:
        consumer = self._consumer
        begins, listed = consumer.beginning_offsets(places), consumer.end_offsets(places)
        consumer.unsubscribe()  # forgets the high watermarks of before
        consumer.assign(places)
        for place in places:
            consumer.seek(place, listed[place])
        deadline_s = time.monotonic() + _STALL_S
        while any(consumer.highwater(place) is None for place in places):
            if time.monotonic() > deadline_s:
                raise BrokerError(f"{self._servers}: no answer on {places[0].topic} within {_STALL_S:.0f} s")
            consumer.poll(timeout_ms=20)
        return [(begins[place], max(listed[place], consumer.highwater(place))) for place in places]

    def settle(self, topic: str, partitions: int, *, still_s: float = 0.3) -> None:
        """Returns when the ends stand still: a producer that was killed may have left requests under way.

        Raises:
            BrokerError: somebody goes on writing for 30 s.
        """
        bounds, deadline_s = self.all_bounds(topic, partitions), time.monotonic() + _STALL_S
        while time.monotonic() < deadline_s:
            time.sleep(still_s)
            before, bounds = bounds, self.all_bounds(topic, partitions)
            if bounds == before:
                return
        raise BrokerError(f"{self._servers}: somebody is writing to {topic}; stop that replay before resuming it")

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[Any]:
        """The records with offsets from `start` to `end` - 1, in order.

        Raises:
            BrokerError: the broker gives none for 30 s.
        """
        place = TopicPartition(topic, partition)
        self._consumer.assign([place])
        self._consumer.seek(place, start)
        deadline_s = time.monotonic() + _STALL_S
        while self._consumer.position(place) < end:
            for record in self._consumer.poll(timeout_ms=500).get(place, ()):
                deadline_s = time.monotonic() + _STALL_S
                if record.offset < end:
                    yield record
            if time.monotonic() > deadline_s:
                raise BrokerError(
                    f"{self._servers}: no record of {topic}[{partition}] at offset {start} within {_STALL_S:.0f} s"
                )

    def newest_first(self, topic: str, partition: int, *, window: int) -> Iterator[Any]:
        """All records from the newest to the oldest, fetched `window` at a time, more and more up to 64."""
        begin, end = self.bounds(topic, partition)
        while end > begin:
            start = max(begin, end - window)
            yield from reversed(list(self.read(topic, partition, start, end)))
            end, window = start, max(window, min(2 * window, _MAX_GROWN_WINDOW))


@contextmanager
def open_partition_log(config: KafkaConfig) -> Iterator[PartitionLog]:
    """A connection for as long as the `with` lasts.

    Raises:
        BrokerError: nobody answers within 10 s, or the broker refuses later.
    """
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=config.servers,
            bootstrap_timeout_ms=_CONNECT_TIMEOUT_MS,
            enable_auto_commit=False,
            fetch_max_wait_ms=20,
            enable_incremental_fetch_sessions=False,  # a session leaves out what has not changed, ends too
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=MAX_RECORD_BYTES,
            allow_auto_create_topics=False,
            **config.client_arguments(),
        )
        try:
            yield PartitionLog(consumer, config.bootstrap_servers)
        finally:
            consumer.close()
    except KafkaError as error:
        raise BrokerError(f"{config.bootstrap_servers}: reading failed ({error or type(error).__name__})") from error
