"""`Publication`: publishes a session's embedding to the topic `embeddings`, from the first trained record on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from streams.clients.connector import Connector
from streams.clients.publisher_thread import PublisherThread
from streams.clients.topic_identity import require_topics
from streams.errors import TopicError
from streams.topics import Topics
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.lookup import Importance
from trainer.errors import PlanError
from trainer.learning.trainer import ADAPTIVE
from trainer.process.run import TrainingRun
from trainer.serving.dense_part import save_dense_part
from trainer.serving.published import Published
from trainer.serving.publishing import EmbeddingPublisher
from trainer.serving.shape import ServedShape

__all__ = ["Publication", "PublishConfig"]

_PACE_S = 0.005  # between two looks at what may be sent by now


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """How to publish.

    Args:
        bytes_per_s: the most bytes a second.
        fields: the names of the fields whose rows may leave the trainer; none for all.
    """

    bytes_per_s: int = 1_000_000
    fields: Sequence[str] = ()


class Publication:
    """Publishes a run; does nothing without a configuration.

    Args:
        config: how; None for not at all.
        kafka: the broker.
        run: the run.

    Raises:
        TopicError: the topic is missing, or its partitions are not the shards.
    """

    def __init__(self, config: PublishConfig | None, kafka: Connector, run: TrainingRun) -> None:
        self._config, self._run, self._opened = config, run, ExitStack()
        self._publisher: EmbeddingPublisher | None = None
        if config is None:
            return
        topic, shards = Topics(kafka.prefix).embeddings, len(run.history.shards)
        self._identity = require_topics(kafka, [topic])[topic]
        if (found := self._identity.partitions) != shards:
            raise TopicError(f"{topic}: {found} partitions, expected {shards}, as `assignments` has")
        self._sender = self._opened.enter_context(PublisherThread(kafka, topic))

    def __enter__(self) -> Publication:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)

    def note_importance(self, importance: Importance) -> None:
        """Notes what a step has trained."""
        if self._publisher is not None:
            self._publisher.note_keys(importance.keys, importance.scores)

    def note_changes(self, keys: npt.NDArray[np.uint64]) -> None:
        """Notes the keys of applied changes."""
        if self._publisher is not None and len(keys):
            self._publisher.note_changes(keys)

    def publish(self, *, force: bool = False) -> None:
        """Sends rows as far as the bytes a second allow; between steps.

        Raises:
            BrokerError: an earlier record cannot be delivered.
        """
        if self._config is None or self._run.trainer is None:
            return
        if self._publisher is None:
            self._publisher = self._begin(self._config)
        self._publisher.publish(self._run.progress.rows, self._run.history.shards, force=force)

    def _begin(self, config: PublishConfig) -> EmbeddingPublisher:
        run, (fields, num_dense) = self._run, self._run.shape
        assert run.trainer is not None  # noqa: S101  `publish` has checked it
        embedding, model = run.trainer.embedding, run.trainer.learners[ADAPTIVE].model
        names = [field.name for field in fields]
        if unknown := set(config.fields) - set(names):
            raise PlanError(f"--publish-field: {', '.join(sorted(unknown))}: expected some of {', '.join(names)}")
        assert isinstance(embedding, AdaptiveEmbedding)  # noqa: S101  a session of ranks publishes nothing
        plan = embedding.plan
        shape = ServedShape(
            model=run.config.model.model,
            dim=plan.dim,
            row_format=plan.row_format,
            hot_store=plan.hot_store or plan.row_format,
            layout=plan.layout,
            fields=tuple((field.name, field.kind) for field in fields),
            num_dense=num_dense,
            partitions=len(run.history.shards),
            published=tuple(number for number, name in enumerate(names, 1) if name in (config.fields or names)),
            run=time.time_ns() // 1_000_000,
        )
        return EmbeddingPublisher(
            embedding, shape, self._sender, bytes_per_s=config.bytes_per_s, read_dense=lambda: save_dense_part(model)
        )

    def finish(self, *, most_s: float = 10.0) -> None:
        """Sends what has changed and a last digest, and waits for the broker's acknowledgement; at most so long.

        What is not acknowledged then stands in `report`, and leaving the context waits for it.
        """
        end_s = time.monotonic() + most_s
        while self._publisher is not None and not self._publisher.is_quiet and time.monotonic() < end_s:
            self.publish()
            time.sleep(_PACE_S)
        self.publish(force=True)
        while self._publisher is not None and self._sender.waiting_bytes and time.monotonic() < end_s:
            time.sleep(_PACE_S)

    def describe(self) -> Published | None:
        """What the topic has, after `finish`; None if nothing was published, or the broker has not acknowledged it."""
        if self._publisher is None or self._sender.waiting_bytes:
            return None
        shape, offsets = self._publisher.shape.to_json(), self._sender.end_offsets
        return Published(shape=shape, topic_id=self._identity.topic_id, offsets=offsets)

    def report(self) -> dict[str, Any] | None:
        """Bytes and records sent, and the lag; None if nothing is published."""
        publisher = self._publisher
        if publisher is None:
            return None
        return {"bytes": publisher.sent_bytes, "records": publisher.sent_rows, "lag": publisher.lag}
