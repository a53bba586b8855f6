"""An agent on an in-memory broker whose importance topic has eight steps for two shards, and what it must publish."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from sketch.hashing import shard_of
from streams.agent.input_record import InputRecord
from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.agent.worker import AgentConfig, AgentWorker
from streams.clients.admin import create_topics
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.keys import CRITEO_FIELDS
from streams.logs.schema import SCHEMAS
from streams.records import ClickBatch, ImportanceBatch, Source, decode_importance, encode_clicks, encode_importance
from streams.topics import Topics

SHARDS, STEPS, ROWS = 2, 8, 200
TOPICS = Topics()
SHARD_CONFIG = ShardConfig(capacity=36, num_shards=SHARDS, half_life_events=8000)
SCHEMA = SCHEMAS["criteo-kaggle"]
GRADIENT = AgentConfig(shards=SHARD_CONFIG, schema=SCHEMA, snapshot_every=2)
FREQUENCY = AgentConfig(shards=SHARD_CONFIG, schema=SCHEMA, signals=frozenset({"frequency"}))


def keys_of(step: int) -> np.ndarray:
    """(200, 26) keys whose popularity drifts with the step, so that hot keys are demoted again."""
    tokens = np.random.default_rng(step).zipf(1.1, (ROWS, 26)).astype(np.uint64) % np.uint64(3000)
    return (np.arange(1, 27, dtype=np.uint64) << np.uint64(56)) | (tokens + np.uint64(100 * (step // 2)))


def importance_of(step: int, shard: int) -> ImportanceBatch:
    keys, counts = np.unique(keys_of(step), return_counts=True)
    mine = shard_of(keys, SHARDS) == shard
    return ImportanceBatch(
        keys=keys[mine],
        scores=counts[mine].astype(np.float32),
        fields=CRITEO_FIELDS,
        source=Source(signal="gradient", topic=TOPICS.clicks, partition=0, offset=step),
        event_time_ms=step,
        ingest_ms=step,
    )


def clicks_of(step: int) -> bytes:
    return encode_clicks(
        ClickBatch(
            label=np.zeros(ROWS, np.int8),
            dense=np.zeros((ROWS, 0), np.float32),
            keys=keys_of(step),
            event_time_ms=np.full(ROWS, step),
            fields=CRITEO_FIELDS,
            dense_names=(),
        )
    )


IMPORTANCE = {(step, shard): encode_importance(importance_of(step, shard)) for step in range(STEPS) for shard in (0, 1)}


def broker_with_importance(*, batch: int = 4) -> InMemoryBroker:
    """A broker whose importance topic has every step; batches are small, so that a change can be cut off anywhere."""
    broker = InMemoryBroker(max_batch_records=batch, clock_ms=lambda: 5)
    create_topics(broker, TOPICS.specs(shards=SHARDS))
    with RecordProducer(broker) as producer:
        for (_, shard), (value, headers) in IMPORTANCE.items():
            producer.send(TOPICS.importance, shard, value, headers)
    return broker


def inputs(broker: InMemoryBroker, topic: str, starts: dict[int, int]) -> list[InputRecord]:
    """The records from the given offset of each partition on, oldest offset first."""
    records = [record for number, start in starts.items() for record in broker.records(topic, number)[start:]]
    return [InputRecord(*record) for record in sorted(records, key=lambda record: record.offset)]


async def adopt(worker: AgentWorker, numbers: set[int]) -> None:
    """Makes these the worker's shards, and waits until all count."""
    await worker.assign(numbers)
    async for _ in worker.load():
        pass


def count_all(broker: InMemoryBroker, config: AgentConfig = GRADIENT) -> AgentWorker:
    """Runs an agent that takes both shards, counts all records and stops, unless it crashes before."""

    async def live() -> AgentWorker:
        worker = AgentWorker(config, broker)
        await adopt(worker, set(range(SHARDS)))
        for record in inputs(broker, TOPICS.importance, worker.own_offsets()):
            await worker.count_importance(record)
        await worker.stop()
        return worker

    return asyncio.run(live())


def published_by_rule() -> tuple[list[Shard], list[list[Any]]]:
    """The shards and the records that they must have published, computed by `Shard` alone."""
    shards = [Shard(number, SHARD_CONFIG) for number in range(SHARDS)]
    published: list[list[Any]] = [[] for _ in shards]
    for (step, shard), encoded in IMPORTANCE.items():
        batch = decode_importance(*encoded)
        assert isinstance(batch, ImportanceBatch)
        changes = shards[shard].count(step, batch)
        assert isinstance(changes, list)
        published[shard] += changes
    return shards, published


RULE = published_by_rule()


def written(broker: InMemoryBroker, shard: int) -> list[Any]:
    """The changes and digests of a shard, without the generations of their owners and what begins each ownership."""
    claim, records = (1).to_bytes(8, "big"), broker.records(TOPICS.assignments, shard)
    begins = [record.key == claim for record in records]
    follows_claim = [False, *begins[:-1]]
    counted = [
        record
        for record, begin, follows in zip(records, begins, follows_claim, strict=True)
        if not begin and not (follows and record.key == bytes(8) and b'"hot":0,' in record.value)
    ]
    return [(r.key, r.value, [header for header in r.headers if header[0] != "generation"]) for r in counted]
