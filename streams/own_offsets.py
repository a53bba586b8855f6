"""A Faust transport whose consumer starts where our snapshots say, not where the group committed.

Faust commits what it has acknowledged, which is a hint for monitoring; the truth is the offset inside each shard's
snapshot. `perform_seek` is the one place where Faust decides where to read from, after every assignment of partitions
and before the first record of it flows. So that is where the shards are loaded, too: the signal
`on_partitions_assigned` runs beside it, and records may flow before its handlers are done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import faust
from faust.transport.drivers.aiokafka import Consumer, Transport
from faust.types import TP

__all__ = ["use_own_offsets"]


def use_own_offsets(app: faust.App, adopt: Callable[[set[TP]], Awaitable[Mapping[TP, int]]]) -> None:
    """Makes the app read every partition that `adopt` names from the offset that it gives.

    Args:
        app: not yet started.
        adopt: takes the partitions of this process, makes ready for their records, and returns where to read from.
    """

    class OwnOffsetsConsumer(Consumer):
        async def perform_seek(self) -> None:
            await super().perform_seek()
            for partition, offset in (await adopt(set(self.assignment()))).items():
                await self.seek(partition, offset)

    class OwnOffsetsTransport(Transport):
        Consumer: Any = OwnOffsetsConsumer

    app.transport = OwnOffsetsTransport(app.conf.broker_consumer, app, loop=app.loop)
