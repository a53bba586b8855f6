"""What a trainer sends: importance, metrics, and the records that it could not believe."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from sketch.hashing import shard_of
from streams.config import KafkaConfig
from streams.keys import Field
from streams.producer import RecordProducer
from streams.records import (
    MAX_RECORD_BYTES,
    ClickBatch,
    ImportanceBatch,
    Source,
    dead_letter_headers,
    encode_importance,
)
from streams.topics import Topics
from trainer.lookup import Importance

__all__ = ["Outbox", "split_importance"]

_MAX_IN_FLIGHT = 64
_ROOM_FOR_HEADERS_BYTES = 1 << 16


def split_importance(
    importance: Importance, source: Source, batch: ClickBatch, ingest_ms: int, num_shards: int
) -> dict[int, ImportanceBatch]:
    """One importance batch for each shard that has a key of the click record, in the order of the keys."""
    shards = shard_of(importance.keys, num_shards)
    event_time_ms = int(batch.event_time_ms.max())
    fields: tuple[Field, ...] = batch.fields
    return {
        shard: ImportanceBatch(
            keys=importance.keys[shards == shard],
            scores=importance.scores[shards == shard],
            fields=fields,
            source=source,
            event_time_ms=event_time_ms,
            ingest_ms=ingest_ms,
        )
        for shard in np.unique(shards).tolist()
    }


class Outbox:
    """Sends records to explicit partitions; a failure is raised by the next call.

    Args:
        config: the broker.
        topics: their names.
        num_shards: partitions of the importance topic.
    """

    def __init__(self, config: KafkaConfig, topics: Topics, num_shards: int) -> None:
        self._producer = RecordProducer(config, max_in_flight=_MAX_IN_FLIGHT)
        self._topics = topics
        self._num_shards = num_shards

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *error: Any) -> None:
        self._producer.__exit__(*error)

    def send_importance(self, importance: Importance, record: Any, batch: ClickBatch) -> tuple[int, int]:
        """Sends what one click record's keys mattered; returns how many records and how many keys that were.

        Raises:
            BrokerError: this record, or one before it, cannot be delivered.
        """
        source = Source(signal="gradient", topic=record.topic, partition=record.partition, offset=record.offset)
        parts = split_importance(importance, source, batch, record.timestamp, self._num_shards)
        for shard, part in parts.items():
            value, headers = encode_importance(part)
            self._producer.send(self._topics.importance, shard, value, headers)
        return len(parts), len(importance.keys)

    def send_metrics(self, said: dict[str, Any]) -> None:
        """Sends one JSON object to the metrics topic."""
        headers = [("content-type", b"application/json")]
        self._producer.send(self._topics.metrics, 0, json.dumps(said).encode(), headers)

    def send_dead_letter(self, record: Any, reason: str) -> None:
        """Keeps a record that cannot be believed, as it was, in its topic's dead letters."""
        headers = dead_letter_headers(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            error="BadRecord",
            message=reason,
            time_ms=time.time_ns() // 1_000_000,
        )
        value = (record.value or b"")[: MAX_RECORD_BYTES - _ROOM_FOR_HEADERS_BYTES]
        target = Topics.dead_letters(record.topic)
        self._producer.send(target, 0, value, [*record.headers, *headers], key=record.key)

    def flush(self) -> None:
        """Returns when everything sent is acknowledged by all replicas.

        Raises:
            BrokerError: something cannot be delivered.
        """
        self._producer.wait()
