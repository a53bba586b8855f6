"""What a trainer sends: importance, metrics, and the records that it rejects."""

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
    """Splits, encodes and sends records in a thread of its own; a failure is raised by a later call.

    Guarantee: records reach a partition in the order in which they were given.

    Args:
        connector: the broker.
        topics: their names.
        num_shards: partitions of the importance topic.

    Attributes:
        importance_records: sent so far; complete after `flush`.
    """

    def __init__(self, connector: Connector, topics: Topics, num_shards: int) -> None:
        self._dead_letters = DeadLetterTopics(connector, [topics.clicks, topics.assignments])
        self._producer = RecordProducer(connector, max_in_flight=_MAX_IN_FLIGHT)
        self._topics = topics
        self._num_shards = num_shards
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
        """Sends what one click record's keys mattered, a record for each shard that has one of them.

        It is held until `release`, or until anything else is sent.

        Raises:
            BrokerError: a record before it cannot be delivered.
        """
        source = Source(signal="gradient", topic=record.topic, partition=record.partition, offset=record.offset)
        self._worker.check()
        self._held.append((importance, source, batch, record.timestamp))

    def release(self) -> None:
        """Begins to encode and send what is held: cheapest while the caller is busy outside the interpreter."""
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
        """Keeps a rejected record of the clicks or assignments topic, as it was, in the topic's dead letters."""
        self.release()
        self._worker.submit(self._send_letter, self._dead_letters.reject(record, reason))

    def _send_letter(self, letter: AddressedLetter) -> None:
        self._producer.send(letter.topic, letter.partition, letter.value, letter.headers, key=letter.key)

    def after_delivery(self, task: Callable[[], None]) -> None:
        """Has a task done, in the outbox's thread, when everything sent so far is acknowledged by all replicas."""
        self.release()
        self._worker.submit(self._producer.wait)
        self._worker.submit(task)

    def flush(self) -> None:
        """Returns when everything sent is acknowledged by all replicas.

        Raises:
            BrokerError: something cannot be delivered.
        """
        self.release()
        self._worker.submit(self._producer.wait)
        self._worker.drain()
