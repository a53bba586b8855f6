"""The benchmark of rebalances: its figures, on reports that were made up, and its load."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.rebalance.load import Load, make_keys
from benchmarks.rebalance.standstill import Standstill
from sketch.hashing import shard_of
from streams.clients.admin import create_topics
from streams.clients.in_memory import InMemoryBroker
from streams.clients.partition_reader import open_partition_log
from streams.clients.producer import RecordProducer
from streams.records import AgentMetrics, ImportanceBatch, ShardMetrics, decode_importance, encode_metrics
from streams.topics import Topics

SHARDS, TOPICS = 4, Topics()


def make_broker() -> InMemoryBroker:
    broker = InMemoryBroker({})
    create_topics(broker, TOPICS.specs(shards=SHARDS))
    return broker


def report(broker: InMemoryBroker, time_ms: int, offsets: dict[int, int]) -> None:
    """An agent's report: the next offset of each of its shards."""
    counters = dict.fromkeys(
        (
            "epoch",
            "seq",
            "hot",
            "max_hot",
            "counted",
            "repeated",
            "rejected_scores",
            "events",
            "promotions",
            "demotions",
        ),
        0,
    )
    shards = {number: ShardMetrics(**counters, next_offset=offset) for number, offset in offsets.items()}
    value, headers = encode_metrics(AgentMetrics(time_ms=time_ms, capacity=1, bad=0, shards=shards))
    with RecordProducer(broker) as producer:
        producer.send(TOPICS.metrics, 0, value, headers)


def test_the_longest_time_without_progress_of_each_shard_counts() -> None:
    broker, begun_s = make_broker(), time.monotonic()
    standstill = Standstill(broker)
    for second, offsets in enumerate([{0: 1, 1: 1}, {0: 2, 1: 1}, {0: 3, 1: 1}, {0: 4, 1: 2}]):
        report(broker, 1000 * second, offsets)
    standstill.look()
    assert standstill.offsets == {0: 4, 1: 2}
    assert standstill.summarise(begun_s) == {"p50_s": 2.0, "p99_s": 2.98, "max_s": 3.0}
    assert standstill.summarise(time.monotonic()) == {"p50_s": 0.0, "p99_s": 0.0, "max_s": 0.0}
    standstill.close()


def test_agents_are_settled_when_each_shard_is_reported_by_one_of_them() -> None:
    broker = make_broker()
    standstill = Standstill(broker)
    report(broker, 0, {0: 1, 1: 1, 2: 1, 3: 1})
    standstill.look()
    assert standstill.num_owners(within_s=60) == 1
    report(broker, 1, {2: 2, 3: 2})
    standstill.look()
    assert standstill.num_owners(within_s=60) == 0  # two shards have two owners
    assert standstill.num_owners(within_s=-1.0) == 0
    standstill.close()


def test_the_load_names_only_keys_of_the_shard_and_fills_each_hot_set() -> None:
    broker, keys = make_broker(), make_keys(SHARDS, 300, seed=1)
    for number, of_shard in enumerate(keys):
        assert len(of_shard) == 300
        assert set(shard_of(of_shard, SHARDS).tolist()) == {number}
    load = Load(broker, keys, rate=1.0, record_keys=10)
    load.fill(load.fill_records)
    with open_partition_log(broker) as log:
        for number in range(SHARDS):
            records = list(log.read(TOPICS.importance, number, *log.bounds(TOPICS.importance, number)))
            batches = [decode_importance(record.value, record.headers) for record in records]
            assert all(isinstance(batch, ImportanceBatch) for batch in batches)
            named = np.unique(np.concatenate([batch.keys for batch in batches if isinstance(batch, ImportanceBatch)]))
            assert set(named.tolist()) == set(keys[number].tolist())
