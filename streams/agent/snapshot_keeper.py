"""Loads the snapshots of an agent's shards, and writes them while counting goes on, never ahead of the broker."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing

from streams.agent.shard import Shard
from streams.clients.connector import Connector
from streams.clients.partition_reader import fetch_partition
from streams.clients.publisher import Publisher
from streams.errors import InvariantError
from streams.records import Manifest, SnapshotReader, write_snapshot

__all__ = ["SnapshotKeeper"]

logger = logging.getLogger(__name__)


class SnapshotKeeper:
    """Loads and writes snapshots.

    Guarantee: a snapshot takes effect only after every change queued before its state was captured is acknowledged. So
    after a crash the agent recomputes all changes after the newest snapshot.

    Args:
        connector: the broker.
        topic: the topic of the snapshots.
        publisher: the publisher that also sends the shards' changes.
        every: importance records of a shard between two snapshots.
    """

    def __init__(self, connector: Connector, topic: str, publisher: Publisher, *, every: int) -> None:
        self._connector = connector
        self._topic = topic
        self._publisher = publisher
        self._every = every
        self._manifests: dict[int, Manifest | None] = {}
        self._since_snapshot: dict[int, int] = {}
        self._saving: dict[int, asyncio.Task[None]] = {}

    async def load(self, number: int) -> bytes | None:
        """A shard's newest whole snapshot; None if it never had one.

        Raises:
            InvariantError: there are snapshots, and none is whole.
        """
        reader = await self._read(number)
        if reader.problems:
            more = f" (and {reader.num_bad - 1} more)" if reader.num_bad > 1 else ""
            logger.warning("shard %d: snapshot ignored: %s%s", number, reader.problems[0], more)
        if reader.data is None and reader.num_manifests:
            raise InvariantError(
                f"shard {number}: got only damaged snapshots in {self._topic}, expected a whole one: "
                f"{reader.problems[:3]}"
            )
        self._manifests[number] = reader.manifest
        return reader.data

    async def _read(self, number: int) -> SnapshotReader:
        reader = SnapshotReader(number)
        async with aclosing(fetch_partition(self._connector, self._topic, number)) as fetches:
            async for records in fetches:
                reader.read((record.key, record.value, record.headers) for record in records)
        return reader

    async def save(self, number: int, state: bytes) -> None:
        """Writes a shard's snapshot after the changes up to its state, which must be queued, are acknowledged."""
        self._since_snapshot[number] = 0
        await self._publisher.flush()
        chunks, closing, manifest = write_snapshot(number, state, previous=self._manifests[number])
        for part in (chunks, [closing]):
            items = [(record.key, record.value, record.headers) for record in part]
            await self._publisher.send(self._topic, number, items, timestamp_ms=time.time_ns() // 1_000_000)
            await self._publisher.flush()
        self._manifests[number] = manifest

    def note_count(self, shard: Shard) -> None:
        """Registers a counted record whose changes are queued; starts to write a snapshot if one is due.

        Captures the state at once: when the task first runs, a record may be counted whose changes are not queued yet.

        Raises:
            KafkaError: the previous snapshot could not be written.
        """
        number = shard.number
        if number in self._saving and self._saving[number].done():
            self._saving.pop(number).result()
        self._since_snapshot[number] += 1
        if self._since_snapshot[number] >= self._every and number not in self._saving:
            self._saving[number] = asyncio.get_running_loop().create_task(self.save(number, shard.to_bytes()))

    async def finish(self) -> None:
        """Waits until no snapshot is being written.

        Raises:
            KafkaError: a snapshot could not be written.
        """
        while self._saving:
            await self._saving.popitem()[1]
