"""Sends the trainer's importance, metrics and dead letters."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from streams.clients.connector import Connector
from streams.clients.dead_letter_topics import AddressedLetter, DeadLetterTopics
from streams.clients.producer import RecordProducer
from streams.clients.worker import Worker
from streams.importance import split_by_shard
from streams.records import ClickBatch, Source, TrainerMetrics, encode_importance, encode_metrics
from streams.topics import Topics
from trainer.embedding.lookup import Importance

__all__ = ["Outbox", "encode_parts"]

_MAX_IN_FLIGHT = 64


def encode_parts(
    importance: Importance, source: Source, batch: ClickBatch, ingest_ms: int, num_shards: int
) -> list[tuple[int, bytes, list[tuple[str, bytes]]]]:
    """Shard, value and headers of the importance records of one click record."""
    parts = split_by_shard(
        importance.keys, importance.scores, batch, source, num_shards=num_shards, ingest_ms=ingest_ms
    )
    return [(shard, *encode_importance(part)) for shard, part in parts]


class Outbox:
    """Splits, encodes and sends records in its own thread; a later call raises a failure.

    Guarantee: records reach a partition in the order of the calls.

    Args:
        connector: the broker.
        topics: the topic names.
        num_shards: partitions of the importance topic.
        clicks_id: the id of the clicks topic, if the broker has ids.

    Attributes:
        importance_records: importance records sent so far; exact after `flush`.
    """

    def __init__(self, connector: Connector, topics: Topics, num_shards: int, *, clicks_id: str | None = None) -> None:
        self._dead_letters = DeadLetterTopics(connector, [topics.clicks, topics.assignments])
        self._producer = RecordProducer(connector, max_in_flight=_MAX_IN_FLIGHT)
        self._topics = topics
        self._num_shards = num_shards
        self._clicks_id = clicks_id
        self._worker = Worker("outbox")
        self._held: list[tuple[Importance, Source, ClickBatch, int]] = []
        self.importance_records = 0

    def __enter__(self) -> Outbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.release()
            self._worker.__exit__(kind, error, trace)
        finally:
            self._producer.__exit__(kind, error, trace)

    def send_importance(self, importance: Importance, record: Any, batch: ClickBatch) -> None:
        """Sends the importance of one click record's keys, as one record for each shard of these keys.

        The records are held until `release`, or until anything else is sent.

        Raises:
            BrokerError: an earlier record cannot be delivered.
        """
        source = Source(
            signal="gradient",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            topic_id=self._clicks_id,
        )
        self._worker.check()
        self._held.append((importance, source, batch, record.timestamp))

    def release(self) -> None:
        """Starts to encode and send the held records; cheapest while the caller runs outside the interpreter."""
        held, self._held = self._held, []
        for arguments in held:
            self._worker.submit(self._send_importance, *arguments)

    def _send_importance(self, importance: Importance, source: Source, batch: ClickBatch, ingest_ms: int) -> None:
        for shard, value, headers in encode_parts(importance, source, batch, ingest_ms, self._num_shards):
            self._producer.send(self._topics.importance, shard, value, headers)
            self.importance_records += 1

    def send_metrics(self, metrics: TrainerMetrics) -> None:
        """Sends one record to the metrics topic."""
        self.release()
        self._worker.submit(self._producer.send, self._topics.metrics, 0, *encode_metrics(metrics))

    def send_dead_letter(self, record: Any, reason: str) -> None:
        """Sends a rejected record of the clicks or assignments topic, unchanged, to the topic's dead letters."""
        self.release()
        self._worker.submit(self._send_letter, self._dead_letters.reject(record, reason))

    def _send_letter(self, letter: AddressedLetter) -> None:
        self._producer.send(letter.topic, letter.partition, letter.value, letter.headers, key=letter.key)

    def after_delivery(self, task: Callable[[], None]) -> None:
        """Runs a task in the outbox's thread after all replicas have acknowledged every record sent so far."""
        self.release()
        self._worker.submit(self._producer.wait)
        self._worker.submit(task)

    def abandon(self) -> None:
        """Discards every record that is not acknowledged; no later one can be sent."""
        self._held.clear()
        self._producer.abandon()

    def flush(self) -> None:
        """Waits until all replicas have acknowledged every record.

        Raises:
            BrokerError: a record cannot be delivered.
        """
        self.release()
        self._worker.submit(self._producer.wait)
        self._worker.drain()
