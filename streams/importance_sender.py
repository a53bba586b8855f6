"""`ImportanceSender`: sends the importance of features from any trainer.

>>> with importance_sender("localhost:9092", schema="criteo-kaggle") as sender:    # doctest: +SKIP
...     for step, batch in enumerate(batches):
...         sender.send(train(batch), offset=step)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from streams.bulk_keys import Schema, fields_of
from streams.clients.config import connect
from streams.clients.connector import Connector
from streams.clients.producer import RecordProducer
from streams.clients.topic_identity import require_topics
from streams.errors import ConfigError
from streams.importance import split_batch
from streams.keys import Field, Keys
from streams.records import ImportanceBatch, Source, encode_importance
from streams.topics import Topics

__all__ = ["ImportanceSender", "Scores", "importance_sender"]

_MAX_IN_FLIGHT = 64


class Scores(Protocol):
    """The scores of distinct keys, such as the `Importance` that `apply_gradients` returns."""

    @property
    def keys(self) -> Keys:
        """(K,) uint64, distinct."""

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """(K,) float32."""


class ImportanceSender:
    """Splits scores by shard and sends them, at least once; the agents count each step once.

    An agent remembers the last offset of each partition and skips what is not newer: so a step whose importance may be
    lost is sent again with its offset, and a restarted trainer goes on with the offsets that it had. Offsets are those
    of click records of `<prefix>.clicks`, or the numbers of steps of a trainer that reads from elsewhere.

    Args:
        connector: the broker.
        fields: the categorical columns, in the order of their numbers.

    Raises:
        BrokerError: no broker answers, or this user may not describe a topic.
        TopicError: a topic is missing.
    """

    def __init__(self, connector: Connector, fields: Sequence[Field]) -> None:
        self._topics, self._fields = Topics(connector.prefix), tuple(fields)
        known = require_topics(connector, [self._topics.clicks, self._topics.importance])
        self._num_shards = known[self._topics.importance].partitions
        self._clicks_id = known[self._topics.clicks].topic_id
        self._newest: dict[int, int] = {}
        self._producer = RecordProducer(connector, max_in_flight=_MAX_IN_FLIGHT)

    def __enter__(self) -> ImportanceSender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits until all is acknowledged, unless the broker has failed; disconnects."""
        self._producer.__exit__(kind, error, trace)

    def send(
        self,
        importance: Scores,
        *,
        offset: int,
        partition: int = 0,
        event_time_ms: int | None = None,
        ingest_ms: int | None = None,
    ) -> int:
        """Sends the scores of one step as one record for each shard of its keys; returns the number of records.

        Args:
            importance: the scores.
            offset: the offset of the click record, or the number of the step; more than that of the step before it in
                its partition.
            partition: the partition of the click record, or the number of the trainer of several.
            event_time_ms: the newest event time of the rows; by default now.
            ingest_ms: the Kafka timestamp of the click record; by default now.

        Raises:
            BrokerError: a record cannot be delivered.
            ConfigError: the offset is not more than the one before.
        """
        before = self._newest.get(partition, -1)
        if offset <= before:
            raise ConfigError(
                f"offset: got {offset} after {before} of partition {partition}, expected more: agents skip what is not "
                "newer; number the steps of all runs consecutively"
            )
        now_ms = time.time_ns() // 1_000_000
        batch = ImportanceBatch(
            keys=np.ascontiguousarray(importance.keys, np.uint64),
            scores=np.ascontiguousarray(importance.scores, np.float32),
            fields=self._fields,
            source=Source(
                signal="gradient",
                topic=self._topics.clicks,
                partition=partition,
                offset=offset,
                topic_id=self._clicks_id,
            ),
            event_time_ms=now_ms if event_time_ms is None else event_time_ms,
            ingest_ms=now_ms if ingest_ms is None else ingest_ms,
        )
        parts = split_batch(batch, self._num_shards)
        for shard, part in parts:
            self._producer.send(self._topics.importance, shard, *encode_importance(part))
        self._newest[partition] = offset
        return len(parts)

    def flush(self) -> None:
        """Waits until all records are acknowledged; before a checkpoint that counts on them.

        Raises:
            BrokerError: a record cannot be delivered.
        """
        self._producer.wait()


def importance_sender(
    bootstrap_servers: str | Connector,
    schema: Schema,
    *,
    prefix: str = "hotstream",
    properties: Mapping[str, str] | None = None,
) -> ImportanceSender:
    """Connects a sender of importance.

    Args:
        bootstrap_servers: `HOST:PORT[,HOST:PORT...]`, or a `Connector` such as an `InMemoryBroker`, which has its own
            prefix.
        schema: a log schema, the name or file of one, or its categorical fields.
        prefix: the prefix of the topic names.
        properties: further Kafka client properties (security), under Kafka's own names.

    Raises:
        BrokerError: no broker answers.
        TopicError: a topic is missing.
    """
    return ImportanceSender(connect(bootstrap_servers, prefix, properties), fields_of(schema))
