"""A trainer's embedding that publishes to a broker in memory, for the tests of serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from trainer_batches import NUM_FIELDS, click_batch

from sketch.changes import Changes
from streams.assignments.shard_view import ShardView
from streams.clients.connector import Connector
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.topics import Topics
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.layout import Layout
from trainer.embedding.plans import EmbeddingPlan
from trainer.learning.models import build_model
from trainer.serving.dense_part import save_dense_part
from trainer.serving.publishing import EmbeddingPublisher
from trainer.serving.replica import Replica
from trainer.serving.shape import ServedShape

PARTITIONS, CAPACITY, DIM = 2, 40, 8
TOPIC = "hotstream.embeddings"
LAYOUT = Layout(num_fields=NUM_FIELDS, capacity_rows=CAPACITY, level_1_per_field=2, level_2_rows=300)
KEYS = click_batch(64, 0).keys


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Direct:
    """Sends at once."""

    waiting_bytes = 0

    def __init__(self, broker: Connector, topic: str) -> None:
        self._broker, self._topic, self.sizes = broker, topic, list[int]()

    def send(self, batch: Mapping[int, Sequence[Any]]) -> None:
        with RecordProducer(self._broker) as producer:
            for partition, items in batch.items():
                for key, value, headers in items:
                    producer.send(self._topic, partition, value, headers, key=key)
                    self.sizes.append(len(key) + len(value or b""))


class Site:
    """A trainer's embedding that publishes to a broker, by default one in memory."""

    def __init__(
        self, *, hot_store: str = "float32", row_format: str = "float32", published: tuple[int, ...] | None = None,
        bytes_per_s: float = 1e9, broker: Connector | None = None, run: int = 1,
    ) -> None:  # fmt: skip
        plan = EmbeddingPlan(layout=LAYOUT, dim=DIM, row_format=row_format, hot_store=hot_store, router_keys=CAPACITY)
        self.embedding = AdaptiveEmbedding(plan, seed=3)
        self.model = build_model("wdl", num_dense=2, num_fields=NUM_FIELDS, dim=DIM)
        self.broker: Any = broker or InMemoryBroker({TOPIC: PARTITIONS})
        self.clock, self.sender, self.step = Clock(), Direct(self.broker, Topics(self.broker.prefix).embeddings), 0
        self.shape = ServedShape(
            model="wdl", dim=DIM, row_format=row_format, hot_store=hot_store, layout=LAYOUT,
            fields=tuple((f"f{number}", "hash") for number in range(NUM_FIELDS)), num_dense=2, partitions=PARTITIONS,
            published=published or tuple(range(1, NUM_FIELDS + 1)), run=run,
        )  # fmt: skip
        self.publisher = EmbeddingPublisher(
            self.embedding, self.shape, self.sender, bytes_per_s=bytes_per_s, clock=self.clock,
            read_dense=lambda: save_dense_part(self.model),
        )  # fmt: skip

    def train(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.step += 1
            keys = click_batch(64, self.step).keys
            vectors = self.embedding(torch.from_numpy(keys.view(np.int64)))
            (vectors * torch.arange(DIM)).square().mean().backward()
            importance = self.embedding.apply_gradients()
            self.publisher.note_keys(importance.keys, importance.scores)

    def move(self, changes: dict[int, int]) -> None:
        keys = np.array(list(changes), np.uint64)
        rows = np.array(list(changes.values()), np.int32)
        self.embedding.migrate(Changes(keys, rows, np.ones(len(keys), np.float32)))
        self.publisher.note_changes(keys)

    def publish(self, seconds: float = 1.0) -> None:
        self.clock.now_s += seconds
        self.publisher.publish(self.step, [ShardView() for _ in range(PARTITIONS)])

    def settle(self) -> None:
        for _ in range(40):
            self.publish()
            if self.publisher.is_quiet:
                break
        assert self.publisher.is_quiet
        self.publish()

    def vectors(self, keys: np.ndarray = KEYS) -> np.ndarray:
        with torch.no_grad():
            return self.embedding(torch.from_numpy(keys.view(np.int64))).numpy()


def hot_keys(count: int) -> dict[int, int]:
    keys = np.unique(KEYS)
    return {int(key): 2 * row % CAPACITY + row // (CAPACITY // 2) for row, key in enumerate(keys[:count])}


def caught_up(broker: Connector) -> Replica:
    replica = Replica(broker)
    replica.catch_up()
    return replica


def assert_equal(site: Site, replica: Replica) -> None:
    np.testing.assert_array_equal(replica.lookup(KEYS), site.vectors())
    assert replica.verify() == [True] * PARTITIONS
    assert [one.verified for one in replica.state.partitions] == [True] * PARTITIONS
    assert replica.state.num_mismatches == replica.state.num_refused == replica.num_bad == 0
