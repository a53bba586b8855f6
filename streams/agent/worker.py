"""The sketch agent: what a process does with the shards that it is given and the records that come.

Delivery: at-least-once input, deterministic output. An importance record is acknowledged to Kafka after its changes
are queued, but that is only a hint: after a crash the agent loads each shard's newest snapshot and reads on from *its*
offset. A snapshot is written only when every change before it is acknowledged by the broker, so nothing between
snapshot and crash can be missing: it is computed again, with the same `seq`, and written if the topic lacks it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.agent.shard import Shard, ShardConfig
from streams.clients.config import KafkaConfig
from streams.clients.publisher import Publisher
from streams.errors import InvariantError
from streams.importance import count_keys, split_by_shard
from streams.logs.schema import LogSchema
from streams.records import (
    AgentMetrics,
    Assignment,
    BadRecord,
    Digest,
    Headers,
    Manifest,
    ShardMetrics,
    SnapshotReader,
    Source,
    dead_letter_headers,
    decode_assignment,
    decode_clicks,
    decode_importance,
    encode_importance,
    encode_metrics,
    place_of,
    write_snapshot,
)
from streams.topics import Topics

__all__ = ["AgentConfig", "AgentWorker"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """What an agent process is told.

    Args:
        kafka: where the broker is.
        shards: the shards' configuration; equal for all agents of a group.
        signals: `gradient`, `frequency` or both: which importance this process counts and makes.
        schema: how single clicks in JSON are read (frequency signal).
        group: the consumer group; the agents of one group share the partitions.
        snapshot_every: importance records of a shard between two snapshots.
        session_timeout_s: after how long a silent agent's partitions go to others.
    """

    kafka: KafkaConfig
    shards: ShardConfig
    signals: frozenset[str] = field(default_factory=lambda: frozenset({"gradient"}))
    schema: LogSchema
    group: str = "hotstream-agent"
    snapshot_every: int = 256
    session_timeout_s: float = 10.0


class AgentWorker:
    """The shards that this process has been given, and what happens to a record."""

    def __init__(self, config: AgentConfig) -> None:
        self.config = config
        self.topics = Topics(config.kafka.prefix)
        self.publisher: Publisher | None = None
        self.shards: dict[int, Shard] = {}
        self._manifests: dict[int, Manifest | None] = {}
        self._since_snapshot: dict[int, int] = {}
        self._saving: dict[int, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()  # a snapshot between a record's count and its changes' way out would lose them
        self.num_bad = 0

    async def start(self) -> None:
        """Connects the publisher; must run in the event loop that will use it."""
        if self.publisher is None:
            self.publisher = Publisher(self.config.kafka)
            await self.publisher.start()

    async def stop(self) -> None:
        """Writes the shards' snapshots and disconnects; records that still come are left for the next start."""
        if self.publisher is not None:
            publisher, self.publisher = self.publisher, None
            await self._save_all(publisher)
            await self._send_metrics(publisher)
            await publisher.stop()

    def own_offsets(self) -> dict[int, int]:
        """Where each shard's input goes on."""
        return {number: shard.next_offset for number, shard in self.shards.items()}

    # ---- shards come and go ------------------------------------------------------------------------------------

    async def adopt_all(self, numbers: set[int]) -> None:
        """Makes these the shards of this process."""
        await self.start()
        await self._finish_saving()
        for number in sorted(set(self.shards) - numbers):
            del self.shards[number]
        for number in sorted(numbers - set(self.shards)):
            await self.adopt(number)
        await self.publish_metrics()  # whoever looks on knows at once who has which shards

    async def adopt(self, number: int) -> None:
        """Loads a shard's newest snapshot, or begins afresh (and says so with a first snapshot).

        Raises:
            InvariantError: a newest snapshot that is damaged beyond use.
        """
        publisher = await self._running()
        reader = await self._read_snapshots(number)
        for problem in reader.problems:
            logger.warning("shard %d: %s", number, problem)
        if reader.data is None and reader.num_manifests:
            raise InvariantError(f"shard {number}: no snapshot in {self.topics.snapshots} is whole: {reader.problems}")
        if reader.data is None:
            shard = Shard(number, self.config.shards)
        else:
            shard = Shard.from_bytes(reader.data, self.config.shards)
        await publisher.flush()  # what this process wrote when it had the shard before is in the topic, too
        shard.follow(*await self._read_newest_change(number))
        self._manifests[number] = reader.manifest
        await self._save(publisher, number, shard.to_bytes())
        self.shards[number] = shard  # from here on its records are counted
        logger.info(
            "shard %d: epoch %d, seq %d, %d hot rows, reads on from offset %d%s",
            number, shard.epoch, shard.seq, shard.table.num_hot, shard.next_offset,
            "" if reader.data else " (no snapshot yet)",
        )  # fmt: skip

    async def _read_snapshots(self, number: int) -> SnapshotReader:
        reader = SnapshotReader(number)
        async for record in self._read_partition(self.topics.snapshots, number):
            reader.read([(record.key, record.value, record.headers)])
        return reader

    async def _read_newest_change(self, number: int) -> tuple[int, int]:
        """The newest epoch and seq in the shard's assignments; (0, 0) if there are none.

        They need not be the last record's: another agent that had the shard for a moment may have left older ones
        behind the newest. So all are read, as any new subscriber does; but of each fetch only the newest is decoded.
        """
        newest = (0, 0)
        async for records in self._read_fetches(self.topics.assignments, number, 0):
            places = sorted(((place_of(record.headers), record.offset) for record in records), reverse=True)
            by_offset = {record.offset: record for record in records}
            for place, offset in places:
                if place <= newest:
                    break
                record = by_offset[offset]
                decoded = decode_assignment(record.key, record.value, record.headers)
                if isinstance(decoded, Assignment | Digest):
                    newest = place
        return newest

    async def _read_partition(self, topic: str, number: int, *, start: int = 0) -> AsyncGenerator[Any, None]:
        """The records of a partition from offset `start`, or the oldest there is, up to its end."""
        async with aclosing(self._read_fetches(topic, number, start)) as fetches:
            async for records in fetches:
                for record in records:
                    yield record

    async def _read_fetches(self, topic: str, number: int, start: int) -> AsyncGenerator[list[Any], None]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.config.kafka.servers,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_bytes=64 << 20,
            max_partition_fetch_bytes=16 << 20,
            **self.config.kafka.client_arguments(),
        )
        await consumer.start()
        try:
            partition = TopicPartition(topic, number)
            consumer.assign([partition])
            end = (await consumer.end_offsets([partition]))[partition]
            begin = (await consumer.beginning_offsets([partition]))[partition]
            consumer.seek(partition, max(begin, start))
            fetched: dict[TopicPartition, list[Any]] = {}
            # The embedded broker counts the last batch as one record, so what lies beyond the end is read, too.
            while fetched or await consumer.position(partition) < end:
                fetched = await consumer.getmany(partition, timeout_ms=1000)
                for records in fetched.values():
                    yield records
        finally:
            await consumer.stop()

    async def save_all(self) -> None:
        """Writes every shard's snapshot, if this process is running."""
        if self.publisher is not None:
            await self._save_all(self.publisher)

    async def _save_all(self, publisher: Publisher) -> None:
        async with self._turn:
            await self._finish_saving()
            for number, shard in list(self.shards.items()):
                await self._save(publisher, number, shard.to_bytes())

    async def _save(self, publisher: Publisher, number: int, state: bytes) -> None:
        """Writes the snapshot of a shard whose changes up to this state are queued, when they are acknowledged."""
        self._since_snapshot[number] = 0
        await publisher.flush()
        chunks, closing, manifest = write_snapshot(number, state, previous=self._manifests[number])
        for part in (chunks, [closing]):
            items = [(record.key, record.value, record.headers) for record in part]
            await publisher.send(self.topics.snapshots, number, items, timestamp_ms=_now_ms())
            await publisher.flush()
        self._manifests[number] = manifest

    def _save_beside(self, publisher: Publisher, shard: Shard) -> None:
        """Begins to write the shard's snapshot, unless the one before is still being written; counting goes on.

        The state is taken at once: when the task first runs, a record may be counted whose changes are not yet queued.
        """
        if shard.number not in self._saving:
            save = self._save(publisher, shard.number, shard.to_bytes())
            self._saving[shard.number] = asyncio.get_running_loop().create_task(save)

    def _note_saved(self, number: int) -> None:
        """Forgets a snapshot that has been written.

        Raises:
            KafkaError: it could not be.
        """
        if number in self._saving and self._saving[number].done():
            self._saving.pop(number).result()

    async def _finish_saving(self) -> None:
        """Returns when no snapshot is being written."""
        while self._saving:
            await self._saving.popitem()[1]

    # ---- records -----------------------------------------------------------------------------------------------

    async def count_importance(
        self, number: int, offset: int, value: bytes | None, headers: Headers, _timestamp_ms: int
    ) -> None:
        """One importance record: count it, publish what changed."""
        publisher = await self._running()
        async with self._turn:
            shard = self.shards.get(number)
            if shard is None or offset < shard.next_offset:
                return  # left over from before a rebalance; whoever has the shard reads it, or the state has it
            if offset > shard.next_offset:
                await self._count_between(publisher, shard, offset)
            await self._count(publisher, shard, offset, value, headers)

    async def _count_between(self, publisher: Publisher, shard: Shard, end: int) -> None:
        """Counts what lies between the shard's state and `end`: nothing, but if a rebalance made Faust skip records.

        What Faust fetched before it sought back to the state's offset may be handed out after that.
        """
        async with aclosing(
            self._read_partition(self.topics.importance, shard.number, start=shard.next_offset)
        ) as records:
            async for record in records:
                if record.offset >= end:
                    break
                await self._count(publisher, shard, record.offset, record.value, list(record.headers))

    async def _count(
        self, publisher: Publisher, shard: Shard, offset: int, value: bytes | None, headers: Headers
    ) -> None:
        batch = decode_importance(value, headers)
        if not isinstance(batch, BadRecord) and batch.source.signal not in self.config.signals:
            shard.skip(offset)
            return
        records = batch if isinstance(batch, BadRecord) else shard.count(offset, batch)
        if isinstance(records, BadRecord):
            shard.skip(offset)
            await self._dead_letter(publisher, self.topics.importance, shard.number, offset, value, headers, records)
            return
        if records:
            await publisher.send(self.topics.assignments, shard.number, records, timestamp_ms=_now_ms())
        self._note_saved(shard.number)
        self._since_snapshot[shard.number] += 1
        if self._since_snapshot[shard.number] >= self.config.snapshot_every:
            self._save_beside(publisher, shard)

    async def count_clicks(
        self, partition: int, offset: int, value: bytes | None, headers: Headers, timestamp_ms: int
    ) -> None:
        """One click record: publish how often each key occurs; not to be acknowledged before `deliver`."""
        publisher = await self._running()
        schema = self.config.schema
        batch = decode_clicks(value, headers, fields=schema.categorical, dense_names=schema.dense)
        if isinstance(batch, BadRecord):
            await self._dead_letter(publisher, self.topics.clicks, partition, offset, value, headers, batch)
            return
        source = Source(signal="frequency", topic=self.topics.clicks, partition=partition, offset=offset)
        parts = split_by_shard(
            *count_keys(batch.keys),
            batch,
            source,
            num_shards=self.config.shards.num_shards,
            ingest_ms=timestamp_ms,
        )
        for shard, part in parts:
            encoded, named = encode_importance(part)
            await publisher.send(self.topics.importance, shard, [(None, encoded, named)], timestamp_ms=_now_ms())

    async def deliver(self) -> None:
        """Returns when all that was published so far is safe: then what it was made of may be acknowledged."""
        await (await self._running()).flush()

    async def _dead_letter(
        self,
        publisher: Publisher,
        topic: str,
        partition: int,
        offset: int,
        value: bytes | None,
        headers: Headers,
        bad: BadRecord,
    ) -> None:
        self.num_bad += 1
        logger.warning("%s/%d, offset %d: bad record: %s", topic, partition, offset, bad.reason)
        named = dead_letter_headers(
            topic=topic, partition=partition, offset=offset, error="BadRecord", message=bad.reason, time_ms=_now_ms()
        )
        target = partition if topic == self.topics.importance else 0
        await publisher.send(
            Topics.dead_letters(topic), target, [(None, value, [*headers, *named])], timestamp_ms=_now_ms()
        )

    def metrics(self) -> AgentMetrics:
        """What this process reports to the metrics topic."""
        shards = {
            number: ShardMetrics(
                epoch=shard.epoch,
                seq=shard.seq,
                hot=shard.table.num_hot,
                max_hot=shard.max_hot,
                warm=shard.table.num_warm,
                counted=shard.num_counted,
                repeated=shard.num_repeated,
                rejected_scores=shard.hot_set.sketch.num_rejected,
                events=shard.num_events,
                promotions=shard.num_promotions,
                demotions=shard.num_demotions,
                next_offset=shard.next_offset,
            )
            for number, shard in self.shards.items()
        }
        return AgentMetrics(time_ms=_now_ms(), capacity=self.config.shards.capacity, bad=self.num_bad, shards=shards)

    async def publish_metrics(self) -> None:
        """Sends the metrics, if this process is running."""
        if self.publisher is not None:
            await self._send_metrics(self.publisher)

    async def _send_metrics(self, publisher: Publisher) -> None:
        records = [(None, *encode_metrics(self.metrics()))]
        await publisher.send(self.topics.metrics, 0, records, timestamp_ms=_now_ms())

    async def _running(self) -> Publisher:
        """The publisher; a process that is stopping waits here until it is cancelled, so nothing is acknowledged."""
        if self.publisher is None:
            await asyncio.Event().wait()
        if self.publisher is None:
            raise InvariantError("an event that nobody sets was set")
        return self.publisher


def _now_ms() -> int:
    """The wall clock, for record timestamps only: nothing is decided by it."""
    return time.time_ns() // 1_000_000
