"""`Repairs`: makes the log of a shard's assignments equal its table again, whatever other processes wrote to it."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing

from streams.agent.log_tail import LogTail, differing_keys
from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.clients.connector import Connector
from streams.clients.log_ends import LogEnds
from streams.clients.owned_log import OwnedLog
from streams.clients.partition_reader import fetch_partitions
from streams.clients.publisher import Publisher
from streams.errors import FencedError
from streams.records import Encoded
from streams.topics import Topics

__all__ = ["Repairs"]

logger = logging.getLogger(__name__)

_AUDIT_EVERY_S = 600.0


class Repairs:
    """Restates the features of records that the owner of a shard did not write, or that its log lacks.

    Args:
        config: the configuration of the shards.
        connector: the broker.
        publisher: the publisher of the process.
        ends: asks for the ends of partitions.
        turn: held while a record is counted and its changes are queued.
    """

    def __init__(
        self, config: ShardConfig, connector: Connector, publisher: Publisher, ends: LogEnds, turn: asyncio.Lock
    ) -> None:
        self._config = config
        self._connector = connector
        self._publisher = publisher
        self._ends = ends
        self._turn = turn
        self._topics = Topics(connector.prefix)
        self._stuck_at: dict[int, int] = {}
        self._audit_due_s: dict[int, float] = {}

    def plan_audit(self, number: int, *, at_once: bool) -> None:
        """Plans when to compare a shard's whole log with its table: at the next repair, or in ten minutes."""
        self._audit_due_s[number] = time.monotonic() + (0.0 if at_once else _AUDIT_EVERY_S)

    async def send(self, shard: Shard, records: list[Encoded]) -> None:
        """Queues records of a shard's assignments.

        Raises:
            FencedError: another process has taken over the shard.
        """
        now_ms = time.time_ns() // 1_000_000
        await self._publisher.send(self._topics.assignments, shard.number, records, timestamp_ms=now_ms)

    async def repair(self, shard: Shard, log: OwnedLog) -> None:
        """Reads what others wrote to a shard's log, and restates its features, once the shard is caught up.

        Raises:
            FencedError: another process has taken over the shard.
        """
        if not shard.is_caught_up and not await self._is_stuck(shard):
            return
        if log.foreign:
            await self._read_foreign(shard, log)
        if time.monotonic() >= self._audit_due_s[shard.number]:
            await self._audit(shard, log)
        if shard.suspects:
            logger.warning("%s: restates %d features that other processes wrote", log.name, len(shard.suspects))
            async with self._turn:
                log.require_owned()
                await self.send(shard, shard.restate())
            await self._publisher.flush(self._topics.assignments, shard.number)
            log.unrepaired_from = None

    async def _is_stuck(self, shard: Shard) -> bool:
        """Whether no importance is left that could explain the newest record of the topic; then outdoes it."""
        end = (await self._ends.fetch(self._topics.importance, [shard.number]))[shard.number]
        before = self._stuck_at.get(shard.number)
        self._stuck_at[shard.number] = shard.next_offset
        if shard.next_offset < end or shard.next_offset != before:
            return False
        async with self._turn:
            self.outdo(shard)
        return True

    def outdo(self, shard: Shard) -> None:
        """Begins an epoch with the present table, and says why."""
        logger.error(
            "shard %d: got version %s as the newest in %s, expected at most (%d, %d), which is all that %s explains: "
            "records were deleted, or another program wrote; beginning a new epoch with the present table",
            shard.number, shard.written, self._topics.assignments, shard.epoch, shard.seq, self._topics.importance,
        )  # fmt: skip
        shard.outdo()

    async def _read_foreign(self, shard: Shard, log: OwnedLog) -> None:
        """Reads the records that others wrote, and marks their keys.

        Raises:
            FencedError: a newer owner wrote one of them.
        """
        begin, ranges = log.safe_position, list(log.foreign)
        tail = LogTail(shard.number, self._config.num_shards, generation=shard.generation)
        fetching = fetch_partitions(self._connector, self._topics.assignments, {shard.number: ranges[0][0]})
        async with aclosing(fetching) as fetches:
            async for _, records in fetches:
                tail.read([record for record in records if any(low <= record.offset < high for low, high in ranges)])
        if tail.generation > shard.generation:
            raise FencedError(f"{log.name}: generation {tail.generation} wrote to it, this is {shard.generation}")
        log.unrepaired_from = begin
        log.foreign = log.foreign[len(ranges) :]
        shard.suspects |= tail.suspects

    async def _audit(self, shard: Shard, log: OwnedLog) -> None:
        """Compares the table that the whole log makes with the shard's, and marks the keys that differ."""
        async with self._turn:
            log.require_owned()
            await self._publisher.flush(self._topics.assignments, shard.number)
            end, ours = log.end, shard.table.items()
        tail = LogTail(shard.number, self._config.num_shards, is_whole=True)
        fetching = fetch_partitions(self._connector, self._topics.assignments, {shard.number: 0})
        async with aclosing(fetching) as fetches:
            async for _, records in fetches:
                await asyncio.to_thread(tail.read, [record for record in records if record.offset < end])
        assert tail.table is not None  # noqa: S101  it is whole
        shard.suspects |= differing_keys(ours, tail.table)
        self.plan_audit(shard.number, at_once=False)
