"""A replica has the vectors of the trainer that publishes, bit for bit, and proves it by digests."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from trainer_batches import NUM_FIELDS, click_batch

from sketch.changes import Changes
from streams.assignments.shard_view import ShardView
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.keys import FIELD_SHIFT
from streams.records.embeddings import NoteRecord, RowRecord, decode_embedding
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.layout import Layout
from trainer.embedding.plans import EmbeddingPlan
from trainer.embedding.stores.registry import STORES
from trainer.errors import KeyRangeError, ReplicaError
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

    def __init__(self, broker: InMemoryBroker) -> None:
        self._broker, self.sizes = broker, list[int]()

    def send(self, batch: Mapping[int, Sequence[Any]]) -> None:
        with RecordProducer(self._broker) as producer:
            for partition, items in batch.items():
                for key, value, headers in items:
                    producer.send(TOPIC, partition, value, headers, key=key)
                    self.sizes.append(len(key) + len(value or b""))


class Site:
    """A trainer's embedding that publishes to a broker in memory."""

    def __init__(
        self, *, hot_store: str = "float32", row_format: str = "float32", published: tuple[int, ...] | None = None,
        bytes_per_s: float = 1e9, broker: InMemoryBroker | None = None, run: int = 1,
    ) -> None:  # fmt: skip
        plan = EmbeddingPlan(layout=LAYOUT, dim=DIM, row_format=row_format, hot_store=hot_store, router_keys=CAPACITY)
        self.embedding = AdaptiveEmbedding(plan, seed=3)
        self.model = build_model("wdl", num_dense=2, num_fields=NUM_FIELDS, dim=DIM)
        self.broker = broker or InMemoryBroker({TOPIC: PARTITIONS})
        self.clock, self.sender, self.step = Clock(), Direct(self.broker), 0
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


def caught_up(broker: InMemoryBroker) -> Replica:
    replica = Replica(broker)
    replica.catch_up()
    return replica


def assert_equal(site: Site, replica: Replica) -> None:
    np.testing.assert_array_equal(replica.lookup(KEYS), site.vectors())
    assert replica.verify() == [True] * PARTITIONS
    assert [one.verified for one in replica.state.partitions] == [True] * PARTITIONS
    assert replica.state.num_mismatches == replica.state.num_refused == replica.num_bad == 0


SHARED = [name for name, entry in STORES.items() if entry.is_shared]
FORMATS = [(hot, SHARED[number % len(SHARED)]) for number, hot in enumerate(STORES)]


@pytest.mark.parametrize(("hot_store", "row_format"), FORMATS)
def test_a_replica_has_the_vectors_of_the_trainer_in_every_format(hot_store: str, row_format: str) -> None:
    site = Site(hot_store=hot_store, row_format=row_format)
    replica = Replica(site.broker)
    site.train()
    site.move(hot_keys(30))
    site.train(3)
    site.settle()
    replica.catch_up()
    assert_equal(site, replica)
    first = site.vectors()
    site.move(dict.fromkeys(list(hot_keys(30))[:9], -1))
    site.train(2)
    site.settle()
    replica.catch_up()
    assert_equal(site, replica)
    assert not np.array_equal(first, site.vectors())


@pytest.mark.parametrize("keeps_tombstones", [True, False])
def test_a_replica_that_starts_late_or_again_after_compaction_is_equal(keeps_tombstones: bool) -> None:
    site = Site()
    site.move(hot_keys(30))
    for step in range(5):
        site.train()
        site.move({list(hot_keys(30))[step]: -1})
        site.settle()
    site.broker.compact(TOPIC, keeps_tombstones=keeps_tombstones)
    late = caught_up(site.broker)
    assert_equal(site, late)
    late.close()
    site.train()
    site.settle()
    assert_equal(site, caught_up(site.broker))


def test_a_replica_that_starts_between_two_digests_serves_after_it_has_read_the_present_end() -> None:
    site = Site()
    site.move(hot_keys(30))
    site.train()
    site.settle()
    site.train()
    site.publish(0.01)  # rows without a digest
    site.broker.compact(TOPIC)
    replica = caught_up(site.broker)
    assert replica.is_ready
    assert replica.state.num_mismatches == 0
    site.settle()
    replica.catch_up()
    assert_equal(site, replica)


def test_a_trainer_that_resumes_is_served_once_its_rows_are_complete() -> None:
    site = Site(run=1)
    site.move(hot_keys(30))
    site.train(2)
    site.settle()
    replica = caught_up(site.broker)
    before = replica.lookup(KEYS)
    again = Site(run=2, broker=site.broker, bytes_per_s=20_000)
    again.move(hot_keys(12))
    again.train()
    again.publish()
    replica.catch_up()
    np.testing.assert_array_equal(replica.lookup(KEYS), before)
    again.settle()
    replica.catch_up()
    assert_equal(again, replica)
    assert_equal(again, caught_up(site.broker))


def test_a_row_that_was_changed_on_its_way_is_found_by_the_digest() -> None:
    site = Site()
    site.move(hot_keys(30))
    site.settle()
    replica = caught_up(site.broker)
    records = site.broker.records(TOPIC, 0)
    changed = next(record for record in reversed(records) if record.key[:1] == b"u" and record.value)
    damaged = changed.value[:-1] + bytes([changed.value[-1] ^ 1])
    with RecordProducer(site.broker) as producer:
        producer.send(TOPIC, 0, damaged, changed.headers, key=changed.key)
    site.publish()
    replica.catch_up()
    assert replica.state.partitions[0].verified is False
    assert replica.state.partitions[1].verified is True
    assert replica.state.num_mismatches == 1


def test_a_row_that_was_changed_in_memory_is_found() -> None:
    site = Site()
    site.move(hot_keys(30))
    site.settle()
    replica = caught_up(site.broker)
    assert replica.verify() == [True, True]
    assert replica.state.served is not None
    replica.state.served.unique.values[0, 0] += 1
    assert replica.verify() == [False, True]


def test_a_row_that_nobody_noted_is_found_by_the_sweep() -> None:
    site = Site()
    site.move(hot_keys(30))
    site.settle()
    replica = caught_up(site.broker)
    site.embedding.unique.values[3] += 1
    site.publisher.note_keys(np.empty(0, np.uint64), np.empty(0, np.float32))  # begins a sweep
    site.settle()
    replica.catch_up()
    assert_equal(site, replica)


def test_a_key_never_shows_a_row_of_another_key() -> None:
    """Row 0 goes from key to key, whose vectors are constants; lookups run beside it."""
    site = Site()
    keys = np.unique(KEYS)[:20]
    replica, stopped, seen = Replica(site.broker), threading.Event(), list[str]()
    site.settle()
    replica.catch_up()
    shared = replica.lookup(keys)

    def look() -> None:
        while not stopped.is_set():
            vectors = replica.lookup(keys)
            own = (vectors == vectors[:, :1]).all(1)
            number = np.arange(1000, 1000 + len(keys))
            if not np.where(own, vectors[:, 0] == number, (vectors == shared).all(1)).all():
                seen.append(repr(vectors))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(200):
        number = turn % len(keys)
        body = np.full(DIM, 1000 + number, np.float32).tobytes()
        record = RowRecord(kind="u", number=0, model=site.shape.fingerprint, feature=int(keys[number]), body=body)
        replica.state.take(0, [(turn, record)])
    stopped.set()
    for thread in threads:
        thread.join()
    assert not seen, seen[0]
    assert (replica.lookup(keys)[:-1] == shared[:-1]).all()


def test_rows_of_fields_that_are_not_allowed_do_not_leave_the_trainer() -> None:
    site = Site(published=(1, 3))
    site.move(hot_keys(40))
    site.train(2)
    site.settle()
    decoded = [
        decode_embedding(record.key, record.value, record.headers)
        for partition in range(PARTITIONS)
        for record in site.broker.records(TOPIC, partition)
    ]
    rows = [one for one in decoded if isinstance(one, RowRecord) and one.body is not None]
    assert {one.feature >> int(FIELD_SHIFT) for one in rows if one.kind == "u"} == {1}
    assert {one.number for one in rows if one.kind == "1"} == {0, 2}
    replica = caught_up(site.broker)
    allowed = KEYS[:, [0, 2]]
    np.testing.assert_array_equal(replica.lookup(allowed), site.vectors()[:, [0, 2]])
    with pytest.raises(KeyRangeError, match="not among the published ones"):
        replica.lookup(KEYS)


def test_no_more_bytes_are_sent_than_allowed_and_the_most_changed_rows_come_first() -> None:
    rate, seconds = 20_000, 10
    site = Site(bytes_per_s=rate)
    site.move(hot_keys(30))
    for _ in range(seconds * 10):
        site.train()
        site.publish(0.1)
    burst = max(site.sender.sizes) + rate / 4
    dense = len(save_dense_part(site.model))
    assert sum(site.sender.sizes) <= rate * seconds + burst + dense
    assert site.publisher.lag["rows"] > 0
    site.publisher.note_keys(np.array([next(iter(hot_keys(1)))], np.uint64), np.array([1e6], np.float32))
    before = len(site.sender.sizes)
    while len(site.sender.sizes) == before:
        site.publish()
    rows = [record for record in site.broker.records(TOPIC, 0) if record.key[:1] == b"u"]
    decoded = decode_embedding(rows[-1].key, rows[-1].value, rows[-1].headers)
    assert isinstance(decoded, RowRecord)


def test_the_newest_complete_dense_part_predicts() -> None:
    site = Site()
    site.move(hot_keys(10))
    site.settle()
    replica = caught_up(site.broker)
    dense = click_batch(64, 0).dense
    expected = site.model(torch.from_numpy(dense), torch.from_numpy(site.vectors())).detach().numpy()
    np.testing.assert_array_equal(replica.predict(dense, KEYS), expected)
    chunks = [record for record in site.broker.records(TOPIC, 0) if record.key[:1] in {b"c", b"m"}]
    version = replica.as_of()["dense_version"]
    manifest = decode_embedding(chunks[-1].key, chunks[-1].value, chunks[-1].headers)
    assert isinstance(manifest, NoteRecord)
    newer = NoteRecord(kind="m", number=1, content={**manifest.content, "version": version + 1})
    replica.state.dense.take(newer)
    assert replica.state.dense.num_incomplete == 1
    assert replica.as_of()["dense_version"] == version


def test_hits_staleness_and_versions_are_reported() -> None:
    site = Site()
    site.move(hot_keys(10))
    site.train(3)
    site.settle()
    replica = Replica(site.broker)
    with pytest.raises(ReplicaError, match="no complete model"):
        replica.lookup(KEYS)
    replica.catch_up()
    replica.lookup(KEYS)
    hits = replica.hits()
    assert sum(sum(one.values()) for one in hits.values()) == KEYS.size
    assert hits["f0"]["hot"] == int(np.isin(KEYS[:, 0], np.array(list(hot_keys(10)), np.uint64)).sum())
    assert replica.as_of()["step"] == 3
    stale_ms = replica.staleness_ms()
    assert stale_ms is not None
    assert stale_ms < 60_000


def test_serving_needs_no_torch() -> None:
    code = "import sys, trainer.serving.replica; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
