"""`PublisherThread`: a `Publisher` with a thread and an event loop of its own, for processes without one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from kafka.errors import KafkaError

from streams.clients.connector import Connector
from streams.clients.publisher import Item, Publisher
from streams.clients.refusals import explain_refusal
from streams.errors import BrokerError

__all__ = ["PublisherThread"]

Batch = Mapping[int, Sequence[Item]]  # by partition


class PublisherThread:
    """Sends batches of records to one topic, one after the other, each acknowledged before the next.

    Args:
        connector: the broker.
        topic: the topic.

    Attributes:
        end_offsets: the offset after the last acknowledged record, by partition, of those that were written to.
    """

    def __init__(self, connector: Connector, topic: str) -> None:
        self._connector, self._topic = connector, topic
        self._loop = asyncio.new_event_loop()
        self._batches: asyncio.Queue[tuple[Batch, int] | None] = asyncio.Queue()
        self._failure: BaseException | None = None
        self._lock, self._waiting = threading.Lock(), 0
        self.end_offsets: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run, name=f"publisher of {topic}", daemon=True)
        self._thread.start()

    @property
    def waiting_bytes(self) -> int:
        """Bytes that were given to `send` and are not acknowledged."""
        return self._waiting

    def send(self, batch: Batch) -> None:
        """Queues records by partition; does not wait.

        Raises:
            BrokerError: an earlier record cannot be delivered.
        """
        self._check()
        size = sum(len(key or b"") + len(value or b"") for items in batch.values() for key, value, _ in items)
        self._count(size)
        self._loop.call_soon_threadsafe(self._batches.put_nowait, (batch, size))

    def close(self) -> None:
        """Waits until all records are acknowledged, and disconnects.

        Raises:
            BrokerError: a record cannot be delivered.
        """
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._batches.put_nowait, None)
            self._thread.join()
        self._check()

    def __enter__(self) -> PublisherThread:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BrokerError:
            if kind is None:
                raise

    def _count(self, size: int) -> None:
        with self._lock:
            self._waiting += size

    def _check(self) -> None:
        if self._failure is None:
            return
        reason = explain_refusal(self._failure, "WRITE", self._topic)
        raise BrokerError(f"{self._connector.bootstrap_servers}: {self._topic}: {reason}") from self._failure

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._publish())
        except (KafkaError, BrokerError) as error:
            self._failure = error
        finally:
            self._loop.close()

    async def _publish(self) -> None:
        publisher = Publisher(self._connector)
        await publisher.start()
        try:
            while (taken := await self._batches.get()) is not None:
                batch, size = taken
                now_ms = time.time_ns() // 1_000_000
                for partition, items in batch.items():
                    await publisher.send(self._topic, partition, items, timestamp_ms=now_ms)
                await publisher.flush()
                self.end_offsets = publisher.end_offsets(self._topic)
                self._count(-size)
        finally:
            await publisher.stop()
