"""`AgentWorker`: an agent process, which loads and saves its shards and counts their records.

Delivery: at-least-once input, deterministic output. An importance record is acknowledged to Kafka after its changes are
queued, but the committed offset is not used: after a crash the agent loads each shard's newest snapshot and continues
at *its* offset. A snapshot is written only after the broker has acknowledged every change before it. Changes after it
are computed again, with the same `seq`, and written if the topic lacks them, so none is lost.

The module does not use Faust: `streams.agent.app` calls these methods, and tests call them with an in-memory broker.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sketch import SnapshotError
from streams.agent.shard import Shard, ShardConfig
from streams.agent.snapshot_keeper import SnapshotKeeper
from streams.clients.connector import Connector
from streams.clients.dead_letter_topics import DeadLetterTopics
from streams.clients.partition_reader import fetch_partition
from streams.clients.publisher import Publisher
from streams.errors import InvariantError
from streams.escapes import escape
from streams.importance import count_keys, split_by_shard
from streams.logs.schema import LogSchema
from streams.records import (
    AgentMetrics,
    Assignment,
    BadRecord,
    Digest,
    Headers,
    ShardMetrics,
    Source,
    decode_assignment,
    decode_clicks,
    decode_importance,
    encode_importance,
    encode_metrics,
    version_of,
)
from streams.telemetry.bad_record_log import BadRecordLog
from streams.topics import Topics

__all__ = ["AgentConfig", "AgentWorker", "InputRecord"]

logger = logging.getLogger(__name__)


class InputRecord(NamedTuple):
    """A record of the importance or clicks topic, independent of the Kafka client."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """The configuration of an agent process.

    Args:
        shards: the shards' configuration; equal for all agents of a group.
        signals: `gradient`, `frequency` or both: the importance that this process counts and, for `frequency`,
            computes.
        schema: the columns of single clicks in JSON (frequency signal).
        group: the consumer group; the agents of one group share the partitions.
        snapshot_every: importance records of a shard between two snapshots.
        session_timeout_s: the time after which a silent agent's partitions are assigned to others.
    """

    shards: ShardConfig
    signals: frozenset[str] = field(default_factory=lambda: frozenset({"gradient"}))
    schema: LogSchema
    group: str = "hotstream-agent"
    snapshot_every: int = 256
    session_timeout_s: float = 10.0


class _Clients(NamedTuple):
    """The clients of a running process."""

    publisher: Publisher
    snapshots: SnapshotKeeper
    dead_letters: DeadLetterTopics


class AgentWorker:
    """The shards of this process, and the handling of their records.

    Args:
        config: the configuration.
        connector: the broker.

    Attributes:
        topics: the topic names.
        shards: the shards, by number.
        num_bad: records sent to the dead letters.
    """

    def __init__(self, config: AgentConfig, connector: Connector) -> None:
        self.config = config
        self.topics = Topics(connector.prefix)
        self.shards: dict[int, Shard] = {}
        self.num_bad = 0
        self._bad_records = BadRecordLog(logger)
        self._connector = connector
        self._clients: _Clients | None = None
        # A snapshot after a record is counted and before its changes are queued would lose them.
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Connects, in the event loop that will use the clients."""
        if self._clients is not None:
            return
        counts_clicks = "frequency" in self.config.signals
        sources = [self.topics.importance, *([self.topics.clicks] if counts_clicks else [])]
        dead_letters = await asyncio.to_thread(DeadLetterTopics, self._connector, sources)
        publisher = Publisher(self._connector)
        await publisher.start()
        snapshots = SnapshotKeeper(self._connector, self.topics.snapshots, publisher, every=self.config.snapshot_every)
        self._clients = _Clients(publisher, snapshots, dead_letters)

    async def stop(self) -> None:
        """Writes the shards' snapshots and disconnects; later records wait for the next start."""
        if self._clients is not None:
            clients, self._clients = self._clients, None
            await self._save_all(clients)
            await self._send_metrics(clients.publisher)
            await clients.publisher.stop()

    def own_offsets(self) -> dict[int, int]:
        """The next importance offset of each shard."""
        return {number: shard.next_offset for number, shard in self.shards.items()}

    # ---- shards ------------------------------------------------------------------------------------------------

    async def adopt_all(self, numbers: set[int]) -> None:
        """Makes these the shards of this process."""
        await self.start()
        await (await self._running()).snapshots.finish()
        for number in sorted(set(self.shards) - numbers):
            del self.shards[number]
        for number in sorted(numbers - set(self.shards)):
            await self.adopt(number)
        await self.publish_metrics()  # shows observers at once which process has which shards

    async def adopt(self, number: int) -> None:
        """Loads a shard's newest snapshot, or creates the shard and writes its first snapshot.

        Raises:
            InvariantError: there are snapshots, and none is whole.
        """
        publisher, snapshots, _ = await self._running()
        state = await snapshots.load(number)
        shard = self._restore(number, state)
        await publisher.flush()  # includes what this process wrote when it owned the shard before
        shard.follow(*await self._read_newest_change(number))
        await snapshots.save(number, shard.to_bytes())
        self.shards[number] = shard  # its records are counted from here on
        logger.info(
            "shard %d: epoch %d, seq %d, %d hot rows, continues at offset %d%s",
            number, shard.epoch, shard.seq, shard.table.num_hot, shard.next_offset,
            " (no snapshot yet)" if state is None else "",
        )  # fmt: skip

    def _restore(self, number: int, state: bytes | None) -> Shard:
        """The shard of a snapshot; a new one, which begins a new epoch, if there is none or it is malformed."""
        if state is None:
            return Shard(number, self.config.shards)
        try:
            shard = Shard.from_bytes(state, self.config.shards)
            if shard.number == number:
                return shard
            reason = f"it is of shard {shard.number}"
        except SnapshotError as error:
            reason = str(error)
        logger.error(
            "shard %d: the snapshot in %s is refused (%s): another program wrote it, or another version; counting "
            "again from the oldest importance record, in a new epoch",
            number, self.topics.snapshots, escape(reason),
        )  # fmt: skip
        return Shard(number, self.config.shards)

    async def _read_newest_change(self, number: int) -> tuple[int, int]:
        """The newest epoch and seq in the shard's assignments; (0, 0) if there are none.

        The newest record need not be the last one: an agent that owned the shard for a moment may have written older
        records after it. So this reads the whole partition, but decodes only the newest record of each fetch.
        """
        newest = (0, 0)
        async with aclosing(fetch_partition(self._connector, self.topics.assignments, number)) as fetches:
            async for records in fetches:
                versions = sorted(((version_of(record.headers), record.offset) for record in records), reverse=True)
                by_offset = {record.offset: record for record in records}
                for version, offset in versions:
                    if version <= newest:
                        break
                    record = by_offset[offset]
                    decoded = decode_assignment(record.key, record.value, record.headers)
                    if isinstance(decoded, Assignment | Digest):
                        newest = version
        return newest

    async def save_all(self) -> None:
        """Writes every shard's snapshot, if this process is running."""
        if self._clients is not None:
            await self._save_all(self._clients)

    async def _save_all(self, clients: _Clients) -> None:
        async with self._turn:
            await clients.snapshots.finish()
            for number, shard in list(self.shards.items()):
                await clients.snapshots.save(number, shard.to_bytes())

    # ---- records -----------------------------------------------------------------------------------------------

    async def count_importance(self, record: InputRecord) -> None:
        """Counts an importance record and publishes its changes."""
        clients = await self._running()
        async with self._turn:
            shard = self.shards.get(record.partition)
            if shard is None or record.offset < shard.next_offset:
                return  # fetched before a rebalance: the shard's owner reads it, or the state includes it
            if record.offset > shard.next_offset:
                await self._count_between(clients, shard, record.offset)
            await self._count(clients, shard, record)

    async def _count_between(self, clients: _Clients, shard: Shard, end: int) -> None:
        """Counts the records between the shard's state and `end`, which Faust may skip in a rebalance.

        After it has sought back to the state's offset, Faust may still deliver records that it fetched before.
        """
        fetching = fetch_partition(self._connector, self.topics.importance, shard.number, start=shard.next_offset)
        async with aclosing(fetching) as fetches:
            async for records in fetches:
                for record in records:
                    if record.offset >= end:
                        return
                    await self._count(clients, shard, record)

    async def _count(self, clients: _Clients, shard: Shard, record: Any) -> None:
        batch = decode_importance(record.value, record.headers)
        if not isinstance(batch, BadRecord) and batch.source.signal not in self.config.signals:
            shard.skip(record.offset)
            return
        known = shard.num_time_outliers
        changes = batch if isinstance(batch, BadRecord) else shard.count(record.offset, batch)
        if shard.num_time_outliers > known:
            _warn_of_outlier(shard, record)
        if isinstance(changes, BadRecord):
            shard.skip(record.offset)
            await self._dead_letter(clients, record, changes)
            return
        if changes:
            await clients.publisher.send(self.topics.assignments, shard.number, changes, timestamp_ms=_now_ms())
        clients.snapshots.note_count(shard)

    async def count_clicks(self, record: InputRecord) -> None:
        """Publishes the number of occurrences of each key of a click record; acknowledge it only after `deliver`."""
        clients = await self._running()
        schema = self.config.schema
        batch = decode_clicks(record.value, record.headers, fields=schema.categorical, dense_names=schema.dense)
        if isinstance(batch, BadRecord):
            await self._dead_letter(clients, record, batch)
            return
        source = Source(signal="frequency", topic=self.topics.clicks, partition=record.partition, offset=record.offset)
        parts = split_by_shard(
            *count_keys(batch.keys),
            batch,
            source,
            num_shards=self.config.shards.num_shards,
            ingest_ms=record.timestamp,
        )
        for shard, part in parts:
            records = [(None, *encode_importance(part))]
            await clients.publisher.send(self.topics.importance, shard, records, timestamp_ms=_now_ms())

    async def deliver(self) -> None:
        """Waits until the broker has acknowledged all published records; their inputs may then be acknowledged."""
        await (await self._running()).publisher.flush()

    async def _dead_letter(self, clients: _Clients, record: Any, bad: BadRecord) -> None:
        self.num_bad += 1
        self._bad_records.add(record, bad.reason)
        letter = clients.dead_letters.reject(record, bad.reason)
        items = [(letter.key, letter.value, letter.headers)]
        await clients.publisher.send(letter.topic, letter.partition, items, timestamp_ms=_now_ms())

    def metrics(self) -> AgentMetrics:
        """The metrics of this process."""
        shards = {
            number: ShardMetrics(
                epoch=shard.epoch,
                seq=shard.seq,
                hot=shard.table.num_hot,
                max_hot=shard.max_hot,
                counted=shard.num_counted,
                repeated=shard.num_repeated,
                rejected_scores=shard.hot_set.sketch.num_rejected,
                time_outliers=shard.num_time_outliers,
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
        if self._clients is not None:
            await self._send_metrics(self._clients.publisher)

    async def _send_metrics(self, publisher: Publisher) -> None:
        records = [(None, *encode_metrics(self.metrics()))]
        await publisher.send(self.topics.metrics, 0, records, timestamp_ms=_now_ms())

    async def _running(self) -> _Clients:
        """The clients. A stopping process waits here until it is cancelled, so that it acknowledges nothing."""
        if self._clients is None:
            await asyncio.Event().wait()
        if self._clients is None:
            raise InvariantError("an event that is never set was set")
        return self._clients


def _warn_of_outlier(shard: Shard, record: Any) -> None:
    """Warns of an event time that does not count as time, each time the number of these doubles."""
    number = shard.num_time_outliers
    if number & (number - 1) == 0:
        logger.warning(
            "%s/%d, offset %d: the event time is more than a half-life from that of the records before it, so it does "
            "not advance the decay of scores; %d such records so far",
            record.topic, record.partition, record.offset, number,
        )  # fmt: skip


def _now_ms() -> int:
    """The wall clock, for record timestamps only; no decision depends on it."""
    return time.time_ns() // 1_000_000
