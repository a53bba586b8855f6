"""Many small records to explicit partitions, quickly: whole batches are built here and sent as one.

aiokafka and kafka-python spend about 70 us on a record that they batch themselves, most of it on a future for each.
Changes come in bursts of hundreds, and nobody needs a future but for the whole burst.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaProducer

from streams.config import KafkaConfig

__all__ = ["Publisher"]

_MAX_BATCH_BYTES = 900_000

Item = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]


class Publisher:
    """A producer (acks=all) that keeps order within a partition, whatever fails, and forgets no failure.

    A batch is sent only when the one before it in its partition is acknowledged, so a lost batch can never have a
    successor in the log. A retry may write a batch twice; every record of ours carries what readers need to drop the
    second (`seq`, or the click record's offset), so Kafka's idempotence would add nothing (and the embedded broker
    refuses aiokafka's).
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=config.servers,
            acks="all",
            max_batch_size=_MAX_BATCH_BYTES + (1 << 16),
            max_request_size=8 << 20,
            **config.client_arguments(),
        )
        self._in_flight: dict[tuple[str, int], asyncio.Future[Any]] = {}

    async def start(self) -> None:
        """Connects."""
        await self._producer.start()

    async def stop(self) -> None:
        """Sends what is left and disconnects."""
        await self._producer.stop()

    async def send(self, topic: str, partition: int, records: Iterable[Item], *, timestamp_ms: int) -> None:
        """Sends records (key, value, headers) in order; returns when all but the last batch are acknowledged.

        Raises:
            KafkaError: an earlier delivery to this partition failed for good.
            ValueError: a record that is larger than a batch.
        """
        batch = self._producer.create_batch()
        for key, value, headers in records:
            arguments = {"key": key, "value": value, "timestamp": timestamp_ms, "headers": headers}
            if batch.append(**arguments) is None:
                await self._send_batch(batch, topic, partition)
                batch = self._producer.create_batch()
                if batch.append(**arguments) is None:
                    raise ValueError(f"a record of {len(value or b'')} bytes for {topic} does not fit a batch")
        if batch.record_count():
            await self._send_batch(batch, topic, partition)

    async def _send_batch(self, batch: Any, topic: str, partition: int) -> None:
        batch.close()
        before = self._in_flight.get((topic, partition))
        if before is not None:
            await before
        self._in_flight[topic, partition] = await self._producer.send_batch(batch, topic, partition=partition)

    async def flush(self) -> None:
        """Waits until everything that was sent is acknowledged.

        Raises:
            KafkaError: something was not.
        """
        for future in list(self._in_flight.values()):
            await future
