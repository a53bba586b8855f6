"""Reads partitions as logs: a range of offsets, or backwards from the newest record.

This module alone determines where a partition ends. A broker returns the end on request (`end_offsets`) and reports it
in every fetch (the high watermark). The `end_offsets` of the embedded broker give the *first* record of its last batch,
so the larger of the two is used.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError

from streams.clients.connector import Connector
from streams.clients.patience import STALL_S, Stall, answered, ask, ask_once, wait_for_answer
from streams.clients.refusals import explain_refusal
from streams.errors import BrokerError
from streams.telemetry.broker_waits import BrokerWaits

__all__ = ["PartitionLog", "fetch_partition", "fetch_partitions", "is_at_end", "open_partition_log"]

_MAX_GROWN_WINDOW = 64
_LOOK_S = 1.0  # a longer time between two looks is one in which this process stood still, and waited for nothing


class PartitionLog:
    """Reads the records of topics without a consumer group.

    Args:
        consumer: a consumer of kafka-python.
        servers: the broker's address, for messages.
        waits: the waits for the broker.
        check: called about once a second while the broker does not report the ends of a topic; may raise.
    """

    def __init__(
        self, consumer: Any, servers: str, waits: BrokerWaits, check: Callable[[], None] = lambda: None
    ) -> None:
        self._consumer = consumer
        self._servers = servers
        self._waits = waits
        self._check = check

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The offset of the oldest record of a partition, and the one after the newest; see `all_bounds`."""
        return self._bounds([TopicPartition(topic, partition)])[0]

    def all_bounds(self, topic: str, partitions: int) -> list[tuple[int, int]]:
        """The offset of the oldest record of each partition, and the one after the newest.

        Raises:
            BrokerError: the broker answers, and reports no end within 30 s, or refuses.
        """
        try:
            return self._bounds([TopicPartition(topic, partition) for partition in range(partitions)])
        except KafkaError as error:
            raise BrokerError(f"{self._servers}: {topic}: {explain_refusal(error, 'READ', topic)}") from error

    def _bounds(self, partitions: list[TopicPartition]) -> list[tuple[int, int]]:
        consumer = self._consumer
        begins = ask(consumer.beginning_offsets, partitions, self._waits, self._check)
        listed = ask(consumer.end_offsets, partitions, self._waits, self._check)
        consumer.unsubscribe()  # discards the previous high watermarks
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, listed[partition])
        stall = Stall(consumer, partitions, self._waits)
        while any(consumer.highwater(partition) is None for partition in partitions):
            if stall.is_over:
                raise BrokerError(f"{self._servers}: no answer on {partitions[0].topic} within {STALL_S:.0f} s")
            consumer.poll(timeout_ms=20)
        return [(begins[partition], max(listed[partition], consumer.highwater(partition))) for partition in partitions]

    def offsets_at(self, topic: str, partitions: int, time_ms: int) -> list[int]:
        """The offset of the first record of each partition with this Kafka timestamp or a later one, or the end.

        Raises:
            KafkaError: the broker refuses.
        """
        logs = [TopicPartition(topic, partition) for partition in range(partitions)]
        times = dict.fromkeys(logs, time_ms)
        found = wait_for_answer(lambda: self._consumer.offsets_for_times(times), self._waits)
        bounds = self.all_bounds(topic, partitions)
        return [end if found[log] is None else found[log].offset for log, (_, end) in zip(logs, bounds, strict=True)]

    def exists(self, topic: str) -> bool:
        """Whether the broker has a topic."""
        return bool(self._partitions_of(topic))

    def is_empty(self, topic: str) -> bool:
        """Whether a topic never had a record that is visible; needs no right to read it.

        All records behind the start of an open transaction are not visible yet.
        """
        return not any(ask(self._consumer.end_offsets, self._partitions_of(topic), self._waits).values())

    def _partitions_of(self, topic: str) -> list[TopicPartition]:
        numbers = wait_for_answer(lambda: self._consumer.partitions_for_topic(topic), self._waits) or ()
        return [TopicPartition(topic, number) for number in numbers]

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[Any]:
        """The records with offsets from `start` to `end` - 1, in order.

        Raises:
            BrokerError: a broker that answers returns no record for 30 s.
        """
        for records in self.read_fetches(topic, partition, start, end):
            yield from records

    def read_fetches(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[Any]]:
        """The same records as lists, one a fetch.

        Raises:
            BrokerError: the broker returns no record for 30 s.
        """
        log = TopicPartition(topic, partition)
        self._consumer.assign([log])
        self._consumer.seek(log, start)
        stall = Stall(self._consumer, [log], self._waits)
        while self._consumer.position(log) < end:
            records = self._consumer.poll(timeout_ms=500).get(log, [])
            if records:
                yield [record for record in records if record.offset < end]
                stall.note_records()
            elif stall.is_over:
                raise BrokerError(
                    f"{self._servers}: no record of {topic}[{partition}] at offset {start} within {STALL_S:.0f} s"
                )

    def newest_first(self, topic: str, partition: int, *, window: int) -> Iterator[Any]:
        """All records from the newest to the oldest, fetched `window` at a time; the window doubles up to 64."""
        begin, end = self.bounds(topic, partition)
        while end > begin:
            start = max(begin, end - window)
            yield from reversed(list(self.read(topic, partition, start, end)))
            end, window = start, max(window, min(2 * window, _MAX_GROWN_WINDOW))


async def fetch_partition(
    connector: Connector, topic: str, partition: int, *, start: int = 0
) -> AsyncGenerator[list[Any], None]:
    """The records of one partition, one list a fetch; see `fetch_partitions`."""
    async with aclosing(fetch_partitions(connector, topic, {partition: start})) as fetches:
        async for _, records in fetches:
            yield records


async def fetch_partitions(
    connector: Connector, topic: str, starts: Mapping[int, int]
) -> AsyncGenerator[tuple[int, list[Any]], None]:
    """The records of partitions from an offset (or the oldest record) to their present ends.

    For coroutines that read many records: three times as fast as `PartitionLog.read`.

    Args:
        connector: the broker.
        topic: the topic.
        starts: the first offset to read, by partition; -n for the last n offsets.

    Yields:
        A partition and its next records, in order.

    Raises:
        BrokerError: a broker that answers returns no record for 30 s.
        KafkaError: the broker refuses.
    """
    from aiokafka import TopicPartition as AsyncTopicPartition  # noqa: PLC0415  the synchronous readers do without aiokafka

    logs, waits = [AsyncTopicPartition(topic, number) for number in starts], connector.waits
    consumer = await answered(lambda: _start(connector), waits)
    try:
        consumer.assign(logs)
        listed = await answered(lambda: consumer.end_offsets(logs), waits)
        begins = await answered(lambda: consumer.beginning_offsets(logs), waits)
        for log in logs:
            start = starts[log.partition]
            consumer.seek(log, max(begins[log], start if start >= 0 else listed[log] + start))
        ends: dict[Any, int] = {}
        idle_s, looked_s = 0.0, time.monotonic()
        while logs:
            for log, records in (await consumer.getmany(*logs, timeout_ms=100)).items():
                yield log.partition, records
                idle_s, looked_s = 0.0, time.monotonic()
            now_s = time.monotonic()
            idle_s += min(now_s - looked_s, _LOOK_S)
            looked_s = now_s
            for log in list(logs):
                if log not in ends and (known := consumer.highwater(log)) is not None:
                    ends[log] = max(listed[log], known)
                if log in ends and await consumer.position(log) >= ends[log]:
                    logs.remove(log)
            if idle_s > 2 * STALL_S:
                raise BrokerError(f"{connector.bootstrap_servers}: no record of {logs[0]} for {STALL_S:.0f} s")
            if idle_s > STALL_S:
                await answered(lambda: consumer.end_offsets(list(listed)), waits)
                if time.monotonic() - now_s > 1.0:  # the broker was away: give it time again
                    idle_s = 0.0
    finally:
        await consumer.stop()


async def _start(connector: Connector) -> Any:
    consumer = connector.create_async_consumer()
    try:
        await consumer.start()
    except BaseException:
        await consumer.stop()
        raise
    return consumer


def is_at_end(consumer: Any, partitions: list[TopicPartition], waits: BrokerWaits) -> bool:
    """Whether a consumer whose last fetch was empty is at the present end of all its partitions, as far as is known.

    Raises:
        BrokerError: the broker does not answer, and patience has ended.
        KafkaError: the broker refuses.
    """
    listed = ask_once(consumer.end_offsets, partitions, waits, time.monotonic())
    waits.check()
    return listed is not None and all(
        consumer.position(partition) >= max(listed[partition], consumer.highwater(partition) or 0)
        for partition in partitions
    )


@contextmanager
def open_partition_log(connector: Connector, check: Callable[[], None] = lambda: None) -> Iterator[PartitionLog]:
    """Opens a `PartitionLog` for the duration of the `with` block; `check` as there.

    Raises:
        BrokerError: no broker answers within 10 s, or the broker refuses later.
    """
    try:
        consumer = connector.open_consumer(reads_to_end=True)
        try:
            yield PartitionLog(consumer, connector.bootstrap_servers, connector.waits, check)
        finally:
            consumer.close(autocommit=False, timeout_ms=2000)
    except KafkaError as error:
        raise BrokerError(
            f"{connector.bootstrap_servers}: reading failed ({explain_refusal(error, 'READ')})"
        ) from error
