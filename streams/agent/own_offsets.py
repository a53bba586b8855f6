"""A Faust transport whose consumer starts where our snapshots say, and does not dawdle.

Faust commits what it has acknowledged, which is a hint for monitoring; the truth is the offset inside each shard's
snapshot. `perform_seek` is the one place where Faust decides where to read from, after every assignment of partitions
and before the first record of it flows. So that is where the shards are loaded, too: the signal
`on_partitions_assigned` runs beside it, and records may flow before its handlers are done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import faust
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP

from streams.errors import InvariantError

__all__ = ["use_own_offsets"]

_FETCH_MAX_WAIT_MS = 20


def use_own_offsets(app: faust.App, adopt: Callable[[set[TP]], Awaitable[Mapping[TP, int]]]) -> None:
    """Makes the app read every partition that `adopt` names from the offset that it gives.

    Args:
        app: not yet started.
        adopt: takes the partitions of this process, makes ready for their records, and returns where to read from.
    """
    seeking = asyncio.Lock()

    class PromptThread(AIOKafkaConsumerThread):
        def _create_worker_consumer(self, transport: Any) -> Any:
            consumer = super()._create_worker_consumer(transport)
            # Faust asks brokers to wait 1.5 s for more data, and has no setting for it. Kafka answers as soon as there
            # is any; the embedded broker does not.
            if not hasattr(consumer, "_fetch_max_wait_ms"):
                raise InvariantError("aiokafka has no _fetch_max_wait_ms any more; look for its new name")
            consumer._fetch_max_wait_ms = _FETCH_MAX_WAIT_MS  # noqa: SLF001
            return consumer

    class OwnOffsetsConsumer(Consumer):
        def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
            return PromptThread(self, loop=self.loop, beacon=self.beacon)

        async def perform_seek(self) -> None:
            # Faust calls this after a rebalance, and also, at the same time, where it throws away what it had fetched
            # while it was rebalancing. Two at once would load a shard twice, the second time under a stream at work.
            async with seeking:
                await super().perform_seek()
                assigned = set(self.assignment())
                offsets = dict(await adopt(assigned))
                # Where nothing was committed yet, Faust leaves the position behind the records that it threw away.
                fresh = [tp for tp in assigned - set(offsets) if not self._read_offset.get(tp)]
                if fresh:
                    offsets.update(await self.earliest_offsets(*fresh))
                for partition, offset in offsets.items():
                    await self.seek(partition, offset)

    class OwnOffsetsTransport(Transport):
        Consumer: Any = OwnOffsetsConsumer

    app.transport = OwnOffsetsTransport(app.conf.broker_consumer, app, loop=app.loop)
