"""A Faust transport whose consumer starts at the offsets of the shards' snapshots and fetches as our other clients do.

Faust's committed offsets serve monitoring only; each shard's snapshot holds the offset to resume from. Faust chooses
the offsets to read from in `perform_seek`, after every assignment of partitions and before their first records. The
process learns its shards there, too, because records may arrive before the handlers of `on_partitions_assigned` have
finished. A shard that has to be loaded is not read until then, and does not keep the others waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import faust
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP

from streams.clients.async_consumers import NotAssignedError, outlast_requests, read_all_async_records
from streams.clients.patience import answered
from streams.errors import InvariantError
from streams.telemetry.broker_waits import BrokerWaits

__all__ = ["Adoption", "use_own_offsets"]

_FETCH_MAX_WAIT_MS = 20
_REQUEST_TIMEOUT_MS = 30_000  # a connection that dies without a word is noticed after it; a request to join is repeated


class Adoption(NamedTuple):
    """Where to read on after an assignment.

    Attributes:
        offsets: the offsets of the partitions that can be read at once.
        waiting: the partitions that `begin_at` begins later.
    """

    offsets: Mapping[TP, int]
    waiting: set[TP]


class _LateConsumer(Consumer):
    """A consumer of partitions that begin some time after they were assigned.

    Attributes:
        is_assigned: whether the newest assignment is known; between two, aiokafka still names the old one.
        begun: set when a partition begins.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_assigned = False
        self.begun = asyncio.Event()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self.is_assigned = False
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self.is_assigned = True
        await super().on_partitions_assigned(assigned, generation_id)

    async def _seek(self, partition: TP, offset: int) -> None:
        # Faust seeks in the event loop. aiokafka is not thread-safe: where its thread takes fetched records at the same
        # time, it finds them gone (a KeyError), or puts the position behind them, and the seek is lost.
        await self._thread.call_thread(self._thread.seek, partition, offset)

    async def _wait_next_records(self, timeout: float) -> Any:
        # Faust looks once a second whether there is a partition to read.
        while self.flow_active and not self._get_active_partitions() and not self.should_stop:
            self.begun.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.begun.wait(), timeout)
        return await super()._wait_next_records(timeout)


def use_own_offsets(
    app: faust.App,
    adopt: Callable[[set[TP]], Awaitable[Adoption]],
    *,
    isolation_level: str,
    waits: BrokerWaits,
) -> None:
    """Makes the app read every partition that `adopt` returns from the offset given there, or from that of `begin_at`.

    `begin_at` is a method of the app's consumer.

    Args:
        app: the app, not started yet.
        adopt: prepares for the records of the assigned partitions.
        isolation_level: `read_committed` skips records of aborted transactions; `read_uncommitted` does not.
        waits: the waits for the broker.
    """
    read_all_async_records()
    # Faust sets a fetch wait of 1.5 s and `read_uncommitted`, and has no options for them. Kafka answers a fetch as
    # soon as there is data; the embedded broker waits.
    settings = {
        "_fetch_max_wait_ms": _FETCH_MAX_WAIT_MS,
        "_isolation_level": isolation_level,
    }
    thread, seeking = _make_thread(settings, waits), asyncio.Lock()

    class OwnOffsetsConsumer(_LateConsumer):
        def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
            return thread(self, loop=self.loop, beacon=self.beacon)

        async def perform_seek(self) -> None:
            # Faust calls this after a rebalance and, at the same time, when it discards records fetched during the
            # rebalance. Two concurrent calls would load a shard twice, the second time while it is in use.
            async with seeking:
                # Others may have the partitions of the old assignment by now. After the next one, Faust calls again.
                if self.is_assigned:
                    await answered(self._seek_own_offsets, waits)

        async def _seek_own_offsets(self) -> None:
            await super().perform_seek()
            assigned = set(self.assignment())
            offsets, waiting = await adopt(assigned)
            self.pause_partitions(waiting)
            # Without a committed offset, Faust leaves the position after the records that it discarded.
            fresh = [tp for tp in assigned - set(offsets) - waiting if not self._read_offset.get(tp)]
            begins = await self.earliest_offsets(*fresh) if fresh else {}
            for partition, offset in {**offsets, **begins}.items():
                await self.seek(partition, offset)

        async def begin_at(self, own_offsets: Callable[[], Mapping[TP, int]]) -> None:
            """Begins to read those of the partitions that `adopt` left waiting which have an offset now."""
            async with seeking:
                offsets = own_offsets()
                for partition in self._paused_partitions & set(offsets) & set(self.assignment()):
                    with suppress(NotAssignedError):  # given back meanwhile
                        await self.seek(partition, offsets[partition])
                        self.resume_partitions([partition])
                self.begun.set()

    class OwnOffsetsTransport(Transport):
        Consumer: Any = OwnOffsetsConsumer

    app.transport = OwnOffsetsTransport(app.conf.broker_consumer, app, loop=app.loop)


def _make_thread(settings: Mapping[str, Any], waits: BrokerWaits) -> type[AIOKafkaConsumerThread]:
    """The class of a thread whose consumer has these settings, and that waits for the broker to connect it."""

    class PromptThread(AIOKafkaConsumerThread):
        async def on_start(self) -> None:
            await answered(self._start_consumer, waits)

        async def _start_consumer(self) -> None:
            try:
                await super().on_start()
            except BaseException:
                await self._consumer.stop()
                raise

        def _create_worker_consumer(self, transport: Any) -> Any:
            consumer = super()._create_worker_consumer(transport)
            for name, setting in settings.items():
                _replace(consumer, name, setting)
            outlast_requests(consumer, _REQUEST_TIMEOUT_MS)
            return consumer

    return PromptThread


def _replace(client: Any, name: str, setting: Any) -> None:
    if not hasattr(client, name):
        raise InvariantError(f"aiokafka: got a client without {name}, expected it; find its new name")
    setattr(client, name, setting)
