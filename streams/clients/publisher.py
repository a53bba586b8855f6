"""Sends many small records to explicit partitions fast, in batches that it builds itself.

In the batches of aiokafka and kafka-python a record costs about 70 us, mostly for its future. Changes come in bursts of
hundreds, and one future for the whole burst suffices.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from streams.clients.connector import Connector
from streams.clients.owned_log import OwnedLog
from streams.clients.patience import answered, may_pass
from streams.clients.refusals import explain_refusal, is_forbidden
from streams.errors import BrokerError, FencedError
from streams.telemetry.broker_waits import BrokerWaits

__all__ = ["Publisher"]

_MAX_WAITING = 20_000
_MAX_WAITING_BYTES = 16 << 20
_RETRY_S = 0.2
_LOOK_S = 1.0
_UNKNOWN_S = 60.0  # a topic may be unknown for so long to a broker that has just started

Item = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]  # aiokafka takes the headers as a list


class Publisher:
    """A producer (acks=all) that keeps the order within a partition and reports every failure.

    Each partition has a queue and a task that sends the queued records as one batch, waits for the acknowledgement, and
    then sends the next batch. So `send` does not wait for the broker, small records share batches under load, and no
    batch can follow a lost one. A retry may write a batch twice; readers drop the copy by its `seq` or by the
    click record's offset, so Kafka's idempotence is not needed (and the embedded broker refuses aiokafka's). A batch
    that fails for a reason that may pass (no broker, no leader) is sent again until it is acknowledged.
    """

    def __init__(self, connector: Connector) -> None:
        self._producer = connector.create_batch_producer()
        self._waits = connector.waits
        self._queues: dict[tuple[str, int], _Queue] = {}
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connects."""
        await answered(self._producer.start, self._waits)
        self._looking = asyncio.get_running_loop().create_task(self._report_waits())

    async def _report_waits(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            since = [queue.sending_since_s for queue in self._queues.values() if queue.sending_since_s is not None]
            if since and time.monotonic() - min(since) > _LOOK_S:
                self._waits.note_wait(self, min(since), sum(queue.num_waiting for queue in self._queues.values()))

    async def stop(self) -> None:
        """Sends the queued records and disconnects.

        Raises:
            BrokerError: this user may not write to a topic.
            KafkaError: a record could not be delivered.
        """
        try:
            await self.flush()
        finally:
            tasks = [queue.task for queue in self._queues.values()]
            for task in [*tasks, *([self._looking] if self._looking is not None else [])]:
                task.cancel()
            await self._producer.stop()

    async def send(self, topic: str, partition: int, records: Sequence[Item], *, timestamp_ms: int) -> None:
        """Queues records (key, value, headers) in order; waits only while the queue is full.

        Raises:
            KafkaError: an earlier delivery to this partition failed permanently.
            FencedError: another process wrote to the partition, which is this process's own.
        """
        queue = self._queues.get((topic, partition))
        if queue is None:
            queue = self._queues[topic, partition] = _Queue(self._producer, self._waits, topic, partition)
        await queue.put(records, timestamp_ms)

    def own(self, topic: str, partition: int, log: OwnedLog) -> None:
        """Makes a partition this process's own; discards what was queued for it, and an earlier failure."""
        self.disown(topic, partition)
        self._queues[topic, partition] = _Queue(self._producer, self._waits, topic, partition, log)

    def disown(self, topic: str, partition: int) -> None:
        """Discards what is queued for a partition."""
        queue = self._queues.pop((topic, partition), None)
        if queue is not None:
            queue.task.cancel()

    async def flush(self, topic: str | None = None, partition: int | None = None) -> None:
        """Waits until every record sent before this call, to all topics, one topic or one partition, is acknowledged.

        Raises:
            BrokerError: this user may not write to a topic.
            KafkaError: a record could not be delivered.
            FencedError: another process wrote to a partition that is this process's own.
        """
        for name, queue in list(self._queues.items()):
            if topic in (None, name[0]) and partition in (None, name[1]):
                await queue.flush()

    def end_offsets(self, topic: str) -> dict[int, int]:
        """The offset after the last acknowledged record of each partition of a topic that was written to."""
        queues = {name[1]: queue.end_offset for name, queue in self._queues.items() if name[0] == topic}
        return {partition: end for partition, end in queues.items() if end is not None}

    def is_idle(self, topic: str, partition: int) -> bool:
        """Whether no record of a partition is queued or under way."""
        queue = self._queues.get((topic, partition))
        return queue is None or queue.is_idle


class _Queue:
    """The queue of one partition, and the task that sends its records.

    A record is encoded into the last waiting batch at once, while it is in the processor's cache: that takes half the
    time of a queue of records, whose objects the garbage collector would also traverse.
    """

    def __init__(
        self, producer: Any, waits: BrokerWaits, topic: str, partition: int, log: OwnedLog | None = None
    ) -> None:
        self._log = log
        self._producer = producer
        self._waits = waits
        self._topic = topic
        self._partition = partition
        self._waiting: deque[Any] = deque()  # batches; only the last one has room
        self._changed = asyncio.Event()
        self._num_put = self._num_acknowledged = 0
        self.sending_since_s: float | None = None  # None while nothing is under way
        self.end_offset: int | None = None  # after the last acknowledged record
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def put(self, records: Sequence[Item], timestamp_ms: int) -> None:
        await self._wait_for(lambda: self._has_room() or self.task.done())
        self._raise_failure()
        batch = self._waiting[-1] if self._waiting else None
        for key, value, headers in records:
            if batch is not None and batch.append(key=key, value=value, timestamp=timestamp_ms, headers=headers):
                continue
            batch = self._producer.create_batch()
            if not batch.append(key=key, value=value, timestamp=timestamp_ms, headers=headers):
                size = len(value or b"")
                raise ValueError(f"{self._topic}: got a record of {size} bytes, expected one that fits a batch")
            self._waiting.append(batch)
        self._num_put += len(records)
        self._changed.set()

    @property
    def num_waiting(self) -> int:
        """The number of records that are not acknowledged."""
        return self._num_put - self._num_acknowledged

    async def flush(self) -> None:
        last = self._num_put
        await self._wait_for(lambda: self._num_acknowledged >= last or self.task.done())
        self._raise_failure()

    @property
    def is_idle(self) -> bool:
        return self._num_acknowledged == self._num_put

    def _has_room(self) -> bool:
        num_records = sum(batch.record_count() for batch in self._waiting)
        return num_records < _MAX_WAITING and sum(batch.size() for batch in self._waiting) < _MAX_WAITING_BYTES

    async def _wait_for(self, is_true: Callable[[], bool]) -> None:
        """Returns when it is true; `set` wakes all that wait, and nothing runs between a look and its wait."""
        while not is_true():
            self._changed.clear()
            await self._changed.wait()

    def _raise_failure(self) -> None:
        if self.task.cancelled():
            raise FencedError(f"{self._topic}[{self._partition}]: this process does not own it any more")
        if self.task.done():
            self.task.result()

    async def _run(self) -> None:
        try:
            while True:
                await self._wait_for(lambda: bool(self._waiting))
                batch = self._waiting.popleft()
                batch.close()
                await self._deliver(batch)
                self._num_acknowledged += batch.record_count()
                self._changed.set()
        finally:
            # Callers that wait must see a failure; the task is done only after this block.
            asyncio.get_running_loop().call_soon(self._changed.set)

    async def _deliver(self, batch: Any) -> None:
        """Sends a batch until it is acknowledged."""
        self.sending_since_s = known_s = time.monotonic()
        while True:
            try:
                sent_s = time.monotonic() if self._log is None else await self._log.confirm()
                sent = await self._producer.send_batch(batch, self._topic, partition=self._partition)
                acknowledged = await sent
            except Exception as error:  # noqa: PERF203  one attempt
                if is_forbidden(error):
                    raise BrokerError(explain_refusal(error, "WRITE", self._topic)) from error
                if not may_pass(error):
                    raise
                if not (_is_unknown_topic(error) and await self._producer.answers()):
                    known_s = time.monotonic()
                elif time.monotonic() - known_s > _UNKNOWN_S:
                    raise
                await asyncio.sleep(_RETRY_S)
            else:
                self.sending_since_s = None
                self.end_offset = acknowledged.offset + batch.record_count()
                self._waits.note_answer()
                if self._log is not None:
                    self._log.note(acknowledged.offset, batch.record_count(), sent_s)
                return


def _is_unknown_topic(error: Exception) -> bool:
    return type(error).__name__ == "UnknownTopicOrPartitionError"  # of either client library
