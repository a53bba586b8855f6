"""Audits a finished run: counts the rows and records in the topics, for comparison with what the processes reported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sketch.hashing import Keys
from streams.assignments.table import HotTable
from streams.clients.admin import require_partitions
from streams.clients.config import KafkaConfig
from streams.clients.partition_reader import PartitionLog, open_partition_log
from streams.logs.schema import LogSchema
from streams.records import ClickBatch, ImportanceBatch, decode_clicks, decode_importance
from streams.topics import Topics

__all__ = ["TopicAudit", "audit_topics", "recall_of"]


@dataclass(frozen=True, kw_only=True)
class TopicAudit:
    """Exact totals of the clicks and importance topics.

    Attributes:
        clicks_rows: rows in the clicks topic.
        importance_records: distinct importance records; there is one per click record, shard and signal.
        top_keys: (K,) uint64, the features with the largest exact sums of importance, in descending order.
    """

    clicks_rows: int
    importance_records: int
    top_keys: Keys


def audit_topics(config: KafkaConfig, schema: LogSchema, *, top: int, half_life_events: float) -> TopicAudit:
    """Reads the clicks and importance topics completely.

    Args:
        config: the broker.
        schema: the fields of click records in JSON.
        top: the length of `top_keys`, K.
        half_life_events: the half-life of the agents' scores in events of a shard; the exact sums decay likewise.
    """
    topics = Topics(config.prefix)
    with open_partition_log(config) as log:
        clicks_rows = _count_rows(log, topics.clicks, require_partitions(config, topics.clicks), schema)
        num_records, keys, scores = 0, [np.empty(0, np.uint64)], [np.empty(0, np.float64)]
        for shard in range(require_partitions(config, topics.importance)):
            events = 0
            for batch in _distinct_importance(log, topics.importance, shard):
                num_records += 1
                keys.append(batch.keys)
                # A weight that grows with the events orders the sums as a decay of the earlier events would.
                scores.append(batch.scores.astype(np.float64) * 2.0 ** (events / half_life_events))
                events += len(batch.keys)
    distinct, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    sums = np.bincount(inverse, np.concatenate(scores), len(distinct))
    best = np.argsort(-sums, kind="stable")[:top]
    return TopicAudit(clicks_rows=clicks_rows, importance_records=num_records, top_keys=distinct[best])


def recall_of(table: HotTable, top_keys: Keys) -> float | None:
    """Returns the share of the exact top features that are hot; None if there are no top features."""
    if not len(top_keys):
        return None
    return round(float(np.mean(table.lookup(top_keys) >= 0)), 5)


def _count_rows(log: PartitionLog, topic: str, num_partitions: int, schema: LogSchema) -> int:
    """Returns the number of rows in the valid records of the clicks topic."""
    rows = 0
    for partition in range(num_partitions):
        for record in _records(log, topic, partition):
            batch = decode_clicks(record.value, record.headers, fields=schema.categorical, dense_names=schema.dense)
            rows += batch.num_rows if isinstance(batch, ClickBatch) else 0
    return rows


def _distinct_importance(log: PartitionLog, topic: str, shard: int) -> Iterator[ImportanceBatch]:
    """Yields the valid importance records of a shard, without the later copies of a record."""
    seen: set[tuple[str, int, int]] = set()
    for record in _records(log, topic, shard):
        batch = decode_importance(record.value, record.headers)
        if not isinstance(batch, ImportanceBatch):
            continue
        source = (batch.source.signal, batch.source.partition, batch.source.offset)
        if source not in seen:
            seen.add(source)
            yield batch


def _records(log: PartitionLog, topic: str, partition: int) -> Iterator[Any]:
    yield from log.read(topic, partition, *log.bounds(topic, partition))
