"""`Publication`: publishes a session's embedding to the topic `embeddings`, from the first trained record on.

Of several ranks each publishes the slices of its own shards, which have partitions of their own, and rank 0, which has
shard 0, the dense part.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from sketch.hashing import shard_of
from streams.clients.connector import Connector
from streams.clients.publisher_thread import PublisherThread
from streams.clients.topic_identity import require_topics
from streams.errors import TopicError
from streams.topics import Topics
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.key_embedding import FollowingEmbedding
from trainer.embedding.lookup import Importance
from trainer.errors import PlanError
from trainer.learning.trainer import ADAPTIVE
from trainer.process.run import TrainingRun
from trainer.ranks.embedding import RankedEmbedding
from trainer.ranks.slices import joined_layout
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
        bytes_per_s: the most bytes a second; of all ranks together.
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
        self._publishers: dict[int, EmbeddingPublisher] = {}  # by slice
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
        """Notes what a step of a single process has trained."""
        self._note_keys(importance.keys, importance.scores)

    def _note_keys(self, keys: npt.NDArray[np.uint64], scores: npt.NDArray[np.float32]) -> None:
        """Notes keys (K,) whose rows were updated, and how much (K,)."""
        for shard, mine in self._by_slice(keys):
            self._publishers[shard].note_keys(keys[mine], scores[mine])

    def note_changes(self, keys: npt.NDArray[np.uint64]) -> None:
        """Notes the keys of applied changes."""
        for shard, mine in self._by_slice(keys):
            self._publishers[shard].note_changes(keys[mine])

    def _by_slice(self, keys: npt.NDArray[np.uint64]) -> Iterator[tuple[int, Any]]:
        """The slices that have some of the keys, and which."""
        if not self._publishers or not len(keys):
            return
        slices = next(iter(self._publishers.values())).shape.slices
        if slices == 1:
            yield 0, slice(None)
            return
        shards = shard_of(keys, slices)
        yield from ((shard, shards == shard) for shard in np.unique(shards).tolist())

    def publish(self, *, force: bool = False) -> None:
        """Sends rows as far as the bytes a second allow; between steps.

        Raises:
            BrokerError: an earlier record cannot be delivered.
        """
        if self._config is None or self._run.trainer is None:
            return
        if not self._publishers:
            self._publishers = self._begin(self._config)
        for publisher in self._publishers.values():
            publisher.publish(self._run.trained_rows, self._run.history.shards, force=force)

    def _begin(self, config: PublishConfig) -> dict[int, EmbeddingPublisher]:
        run, (fields, num_dense) = self._run, self._run.shape
        assert run.trainer is not None  # noqa: S101  `publish` has checked it
        embedding, model = run.trainer.embedding, run.trainer.learners[ADAPTIVE].model
        names = [field.name for field in fields]
        if unknown := set(config.fields) - set(names):
            raise PlanError(f"--publish-field: {', '.join(sorted(unknown))}: expected some of {', '.join(names)}")
        plan, (num_slices, slices) = embedding.plan, _slices_of(embedding)
        shape = ServedShape(
            model=run.config.model.model,
            dim=plan.dim,
            row_format=plan.row_format,
            hot_store=plan.hot_store or plan.row_format,
            layout=joined_layout(plan.layout, num_slices),
            fields=tuple((field.name, field.kind) for field in fields),
            num_dense=num_dense,
            partitions=len(run.history.shards),
            published=tuple(number for number, name in enumerate(names, 1) if name in (config.fields or names)),
            run=run.started_ms,
            slices=num_slices,
        )
        if isinstance(embedding, RankedEmbedding):
            embedding.on_learned = self._note_keys  # as owner: its own click records have keys of other owners
        return {
            shard: EmbeddingPublisher(
                part,
                shape,
                self._sender,
                bytes_per_s=config.bytes_per_s / num_slices,
                read_dense=None if shard else lambda: save_dense_part(model),
                shard=shard,
            )
            for shard, part in slices.items()
        }

    def finish(self, *, most_s: float = 10.0) -> None:
        """Sends what has changed and a last digest, and waits for the broker's acknowledgement; at most so long.

        What is not acknowledged then stands in `report`, and leaving the context waits for it.
        """
        end_s, every = time.monotonic() + most_s, self._publishers.values()
        while not all(one.is_quiet for one in every) and time.monotonic() < end_s:
            self.publish()
            time.sleep(_PACE_S)
        self.publish(force=True)
        while self._publishers and self._sender.waiting_bytes and time.monotonic() < end_s:
            time.sleep(_PACE_S)

    def describe(self) -> Published | None:
        """What the topic has, after `finish`; None if nothing was published, or the broker has not acknowledged it.

        Of several ranks, what this one has published.
        """
        if not self._publishers or self._sender.waiting_bytes:
            return None
        shape, offsets = next(iter(self._publishers.values())).shape.to_json(), self._sender.end_offsets
        return Published(shape=shape, topic_id=self._identity.topic_id, offsets=offsets)

    def report(self) -> dict[str, Any] | None:
        """Bytes and records sent, and the lag, of this process; None if nothing is published."""
        every = self._publishers.values()
        if not every:
            return None
        lags = [one.lag for one in every]
        lag = {name: sum(one[name] for one in lags) for name in ("rows", "bytes")}
        return {
            "bytes": sum(one.sent_bytes for one in every), "records": sum(one.sent_rows for one in every),
            "lag": {**lag, "unacknowledged_bytes": self._sender.waiting_bytes},
        }  # fmt: skip


def _slices_of(embedding: FollowingEmbedding) -> tuple[int, Mapping[int, AdaptiveEmbedding]]:
    """The number of slices that all processes have together, and those of this one by shard."""
    if isinstance(embedding, RankedEmbedding):
        return embedding.local.num_shards, embedding.local.slices
    assert isinstance(embedding, AdaptiveEmbedding)  # noqa: S101  a trainer has no other
    return 1, {0: embedding}
