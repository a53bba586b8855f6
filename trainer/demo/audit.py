"""The books of a finished run: what is in the topics, counted record by record, against what the processes said."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sketch.hashing import Keys
from streams.assignments.table import HotTable
from streams.clients.admin import require_partitions
from streams.clients.config import KafkaConfig
from streams.clients.partition_reader import PartitionLog, open_partition_log
from streams.logs.schema import LogSchema
from streams.records import ClickBatch, ImportanceBatch, decode_clicks, decode_importance
from streams.topics import Topics

__all__ = ["Books", "audit", "recall_of"]


@dataclass(frozen=True, kw_only=True)
class Books:
    """What the topics hold.

    Attributes:
        clicks_rows: rows in the clicks topic.
        importance_records: importance records, each click record counted once a shard and signal.
        top_keys: the features with the largest exact sums of importance, best first.
    """

    clicks_rows: int
    importance_records: int
    top_keys: Keys


def audit(config: KafkaConfig, schema: LogSchema, *, top: int, half_life_events: float) -> Books:
    """Reads the clicks and importance topics from end to end.

    Args:
        config: the broker.
        schema: how single clicks in JSON are read.
        top: how many of the most important features to find, exactly.
        half_life_events: the agents' half-life in a shard's events; sums decay as theirs do.
    """
    topics = Topics(config.prefix)
    with open_partition_log(config) as log:
        rows = sum(
            batch.num_rows
            for record in _records(log, topics.clicks, require_partitions(config, topics.clicks))
            if isinstance(batch := _clicks(record, schema), ClickBatch)
        )
        seen: set[tuple[int, str, int, int]] = set()
        keys, scores = [np.empty(0, np.uint64)], [np.empty(0, np.float64)]
        for shard in range(require_partitions(config, topics.importance)):
            events = 0
            for record in _partition(log, topics.importance, shard):
                batch = decode_importance(record.value, record.headers)
                if not isinstance(batch, ImportanceBatch):
                    continue
                source = (shard, batch.source.signal, batch.source.partition, batch.source.offset)
                if source in seen:
                    continue
                seen.add(source)
                keys.append(batch.keys)
                scores.append(batch.scores.astype(np.float64) * 2.0 ** (events / half_life_events))
                events += len(batch.keys)
    distinct, places = np.unique(np.concatenate(keys), return_inverse=True)
    sums = np.bincount(places, np.concatenate(scores), len(distinct))
    best = np.argsort(-sums, kind="stable")[:top]
    return Books(clicks_rows=rows, importance_records=len(seen), top_keys=distinct[best])


def recall_of(table: HotTable, top_keys: Keys) -> float | None:
    """The share of the exact top features that are hot; None if there are none."""
    if not len(top_keys):
        return None
    tiers, _ = table.lookup(top_keys)
    return round(float(np.mean(tiers == 2)), 5)


def _clicks(record: object, schema: LogSchema) -> object:
    return decode_clicks(
        record.value,  # type: ignore[attr-defined]
        record.headers,  # type: ignore[attr-defined]
        fields=schema.categorical,
        dense_names=schema.dense,
    )


def _partition(log: PartitionLog, topic: str, partition: int):  # type: ignore[no-untyped-def]
    yield from log.read(topic, partition, *log.bounds(topic, partition))


def _records(log: PartitionLog, topic: str, partitions: int):  # type: ignore[no-untyped-def]
    for partition in range(partitions):
        yield from _partition(log, topic, partition)
