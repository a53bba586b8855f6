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
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from streams.agent.agreement import Agreement
from streams.agent.input_record import InputRecord
from streams.agent.ownership import Ownership
from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.agent.shard_reports import ShardReports
from streams.agent.topic_changes import follow_changes, ids_of
from streams.clients.connector import Connector
from streams.clients.dead_letter_topics import DeadLetterTopics
from streams.clients.partition_reader import fetch_partition
from streams.clients.publisher import Publisher
from streams.clients.topic_identity import TopicWatch, require_topics
from streams.errors import FencedError
from streams.importance import count_keys, split_by_shard
from streams.logs.schema import LogSchema
from streams.records import (
    AgentMetrics,
    BadRecord,
    Source,
    decode_clicks,
    decode_importance,
    encode_importance,
    encode_metrics,
)
from streams.telemetry.bad_record_log import BadRecordLog
from streams.topics import Topics

__all__ = ["AgentConfig", "AgentWorker"]

logger = logging.getLogger(__name__)


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
        group_instance_id: the agent's own name in the group, under which it gets its partitions back; None for no name.
    """

    shards: ShardConfig
    signals: frozenset[str] = field(default_factory=lambda: frozenset({"gradient"}))
    schema: LogSchema
    group: str = "hotstream-agent"
    snapshot_every: int = 256
    session_timeout_s: float = 10.0
    group_instance_id: str | None = None


class _Clients(NamedTuple):
    """The clients of a running process."""

    publisher: Publisher
    ownership: Ownership
    dead_letters: DeadLetterTopics


class AgentWorker:
    """The shards of this process, and the handling of their records.

    Args:
        config: the configuration.
        connector: the broker.

    Attributes:
        topics: the topic names.
        num_bad: records sent to the dead letters.
    """

    def __init__(self, config: AgentConfig, connector: Connector) -> None:
        self.config = config
        self.topics = Topics(connector.prefix)
        self.num_bad = 0
        self._bad_records = BadRecordLog(logger)
        self._reports = ShardReports()
        self._connector = connector
        self._clients: _Clients | None = None
        self._has_clients = asyncio.Event()
        self._agreement = Agreement(connector, config.shards, group=config.group, signals=config.signals)
        self._watch: TopicWatch | None = None
        self._clicks_id: str | None = None
        self._ownership: Ownership | None = None  # the shards can still be looked at when the process has stopped

    async def start(self) -> None:
        """Connects, in the event loop that will use the clients."""
        if self._clients is not None:
            return
        sources = [self.topics.importance, *([self.topics.clicks] if self.computes_frequency else [])]
        letters = [] if self.topics.is_shadow else sources
        names = [*sources, self.topics.assignments, self.topics.snapshots, self.topics.control]
        identities = await asyncio.to_thread(require_topics, self._connector, names)
        self._clicks_id = identities[self.topics.clicks].topic_id if self.computes_frequency else None
        self._watch = TopicWatch(self._connector, identities)
        dead_letters = await asyncio.to_thread(DeadLetterTopics, self._connector, letters)
        publisher = Publisher(self._connector)
        await publisher.start()
        self._ownership = Ownership(
            self.config.shards,
            self._connector,
            publisher,
            snapshot_every=self.config.snapshot_every,
            lease_s=self.config.session_timeout_s,
            topic_ids=ids_of(identities),
        )
        await self._ownership.start()
        self._clients = _Clients(publisher, self._ownership, dead_letters)
        self._has_clients.set()

    async def stop(self) -> None:
        """Writes the shards' snapshots and disconnects; later records wait for the next start."""
        if self._clients is not None:
            clients, self._clients = self._clients, None
            if self._watch is not None:
                self._watch.close()
            self._has_clients.clear()
            await clients.ownership.stop()
            await self._send_metrics(clients.publisher)
            await clients.publisher.stop()

    @property
    def computes_frequency(self) -> bool:
        """Whether this process reads clicks; a shadow counts the importance that others compute."""
        return "frequency" in self.config.signals and not self.topics.is_shadow

    @property
    def shards(self) -> dict[int, Shard]:
        """The shards of this process, by number."""
        return {} if self._ownership is None else self._ownership.shards

    def own_offsets(self) -> dict[int, int]:
        """The next importance offset of each shard."""
        return {number: shard.next_offset for number, shard in self.shards.items()}

    @property
    def ownership(self) -> Ownership | None:
        """The owner of the shards; None if this process is not running."""
        return None if self._clients is None else self._clients.ownership

    # ---- shards ------------------------------------------------------------------------------------------------

    async def assign(self, numbers: set[int]) -> None:
        """Makes these the shards of this process; those that it does not have yet count once `load` has loaded them.

        Raises:
            ConfigError: the agents have agreed on another configuration.
        """
        await self.start()
        await self._agreement.check()
        await (await self._running()).ownership.take(numbers)
        await self.publish_metrics()  # shows observers at once which process has which shards

    async def load(self) -> AsyncIterator[set[int]]:
        """Loads the shards that were assigned, some at a time; yields those that have begun to count.

        Ends early when the shards are given back.
        """
        async for numbers in (await self._running()).ownership.load():
            await self.publish_metrics()
            yield numbers & set(self.shards)

    async def release(self) -> None:
        """Gives the shards back: stops counting for them until `assign`, if this process is running."""
        if self._clients is not None:
            await self._clients.ownership.park()

    async def check(self) -> None:
        """Repairs what other processes wrote to the shards' partitions, if this process is running.

        Raises:
            ConfigError: the agents have agreed on another configuration.
            TopicError: a topic was deleted, or the number of shards has changed.
        """
        clients = self._clients
        if clients is None:
            return
        if self._watch is not None:
            await follow_changes(self._watch.take(), self.topics, clients.ownership, self._agreement)
        fields = max((shard.fields for shard in self.shards.values()), key=len, default=())
        await self._agreement.check(clients.ownership.ends, fields)
        if self._clients is not clients:
            return  # stopped meanwhile
        await self._catch_up(clients, await clients.ownership.check())
        for shard in self.shards.values():
            self._reports.note_quiet(shard)

    async def _catch_up(self, clients: _Clients, numbers: set[int]) -> None:
        """Counts what Faust delivered while these shards were loaded; a quiet shard has no later record to show it."""
        ends = await clients.ownership.ends.fetch(self.topics.importance, numbers)
        for number, end in ends.items():
            async with clients.ownership.turn:
                shard = self.shards.get(number)
                try:
                    if shard is not None and shard.next_offset < end:
                        await self._count_between(clients, shard, end)
                except FencedError as error:
                    clients.ownership.suspend(number, error)

    # ---- records -----------------------------------------------------------------------------------------------

    async def count_importance(self, record: InputRecord) -> None:
        """Counts an importance record and publishes its changes."""
        clients = await self._running()
        async with clients.ownership.turn:
            shard = self.shards.get(record.partition)
            if shard is None or record.offset < shard.next_offset:
                return  # fetched before a rebalance: the shard's owner reads it, or the state includes it
            try:
                if record.offset > shard.next_offset:
                    await self._count_between(clients, shard, record.offset)
                await self._count(clients, shard, record)
            except FencedError as error:
                clients.ownership.suspend(shard.number, error)

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
            self._reports.note_other_signal(shard, batch.source.signal)
            self._skip(clients, shard, record)
            return
        known, events = shard.num_time_outliers, shard.num_events
        counted, repeated = shard.num_counted, shard.num_repeated
        changes = batch if isinstance(batch, BadRecord) else shard.count(record.offset, batch)
        if shard.num_time_outliers > known:
            self._reports.warn_of_outlier(shard, record)
        if isinstance(changes, BadRecord):
            self._skip(clients, shard, record)
            await self._dead_letter(clients, record, changes)
            return
        if not isinstance(batch, BadRecord):
            if shard.num_counted > counted:
                self._reports.note_counted(shard, batch)
            elif shard.num_repeated > repeated:
                self._reports.note_repeated(shard, batch.source)
        if changes:
            await clients.publisher.send(self.topics.assignments, shard.number, changes, timestamp_ms=_now_ms())
        clients.ownership.snapshots.note_count(shard, shard.num_events - events)

    def _skip(self, clients: _Clients, shard: Shard, record: Any) -> None:
        shard.skip(record.offset)
        clients.ownership.snapshots.note_count(shard, 0)

    async def count_clicks(self, record: InputRecord) -> None:
        """Publishes the number of occurrences of each key of a click record; acknowledge it only after `deliver`."""
        clients = await self._running()
        schema = self.config.schema
        batch = decode_clicks(record.value, record.headers, fields=schema.categorical, dense_names=schema.dense)
        if isinstance(batch, BadRecord):
            await self._dead_letter(clients, record, batch)
            return
        source = Source(
            signal="frequency",
            topic=self.topics.clicks,
            partition=record.partition,
            offset=record.offset,
            topic_id=self._clicks_id,
        )
        parts = split_by_shard(
            *count_keys(batch.every_key),
            batch,
            source,
            num_shards=self.config.shards.num_shards,
            ingest_ms=record.timestamp,
        )
        for shard, part in parts:
            records = [(None, *encode_importance(part))]
            await clients.publisher.send(self.topics.importance, shard, records, timestamp_ms=_now_ms())

    async def deliver(self) -> None:
        """Waits until the broker has acknowledged what the clicks caused; they may then be acknowledged."""
        publisher = (await self._running()).publisher
        for topic in (self.topics.importance, self.topics.dead_letters(self.topics.clicks)):
            await publisher.flush(topic)

    async def _dead_letter(self, clients: _Clients, record: Any, bad: BadRecord) -> None:
        self.num_bad += 1
        self._bad_records.add(record, bad.reason)
        if self.topics.is_shadow:
            return  # the agents that it shadows write the letter
        letter = clients.dead_letters.reject(record, bad.reason)
        items = [(letter.key, letter.value, letter.headers)]
        await clients.publisher.send(letter.topic, letter.partition, items, timestamp_ms=_now_ms())

    def metrics(self) -> AgentMetrics:
        """The metrics of this process."""
        shards = {number: self._reports.metrics(shard) for number, shard in self.shards.items()}
        return AgentMetrics(time_ms=_now_ms(), capacity=self.config.shards.capacity, bad=self.num_bad, shards=shards)

    async def publish_metrics(self) -> None:
        """Sends the metrics, if this process is running."""
        if self._clients is not None:
            await self._send_metrics(self._clients.publisher)

    async def _send_metrics(self, publisher: Publisher) -> None:
        records = [(None, *encode_metrics(self.metrics()))]
        await publisher.send(self.topics.metrics, 0, records, timestamp_ms=_now_ms())

    async def _running(self) -> _Clients:
        """The clients, once they are connected: Faust may deliver records before the first shards are loaded.

        A process that has stopped waits here until it is cancelled, so that it acknowledges nothing.
        """
        while self._clients is None:
            await self._has_clients.wait()
        return self._clients


def _now_ms() -> int:
    """The wall clock, for record timestamps only; no decision depends on it."""
    return time.time_ns() // 1_000_000
