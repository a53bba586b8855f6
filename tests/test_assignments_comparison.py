"""A shadow runs another configuration on the same importance, touches nothing else, and can be compared."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from agent_driver import GRADIENT, SHARDS, STEPS, TOPICS, adopt, broker_with_importance, clicks_of, count_all, inputs

from streams.agent.worker import AgentConfig, AgentWorker
from streams.assignments.comparison import compare_hot_sets, read_hot_set, read_lookups
from streams.clients.admin import create_topics
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer

SMALL = replace(GRADIENT, shards=replace(GRADIENT.shards, capacity=24, seed=3), group="small")


def run_shadow(broker: InMemoryBroker, config: AgentConfig = SMALL) -> AgentWorker:
    topics = TOPICS.shadow("small")
    create_topics(broker, topics.specs(shards=SHARDS))
    broker.prefix = topics.prefix
    try:

        async def live() -> AgentWorker:
            worker = AgentWorker(config, broker)
            await adopt(worker, set(range(SHARDS)))
            for record in inputs(broker, TOPICS.importance, worker.own_offsets()):
                await worker.count_importance(record)
            await worker.check()
            await worker.stop()
            return worker

        return asyncio.run(live())
    finally:
        broker.prefix = TOPICS.prefix


def contents(broker: InMemoryBroker) -> dict[str, list[int]]:
    return {name: [log.end for log in logs] for name, logs in broker.topics.items() if ".shadow." not in name}


def test_a_shadow_touches_nothing_else_and_writes_no_dead_letters():
    broker = broker_with_importance()
    with RecordProducer(broker) as producer:
        producer.send(TOPICS.importance, 1, b"garbage", [])
    count_all(broker)
    before = contents(broker)
    worker = run_shadow(broker, replace(SMALL, signals=frozenset({"gradient", "frequency"})))
    assert contents(broker) == before
    assert worker.num_bad == 1
    assert not worker.computes_frequency
    assert [shard.num_counted for shard in worker.shards.values()] == [STEPS] * SHARDS
    assert [spec.name for spec in TOPICS.shadow("small").specs()] == [
        f"hotstream.shadow.small.{name}" for name in ("assignments", "sketch-snapshots", "metrics", "control")
    ]


def test_the_comparison_counts_what_both_have_and_whose_lookups_they_serve():
    broker = broker_with_importance()
    with RecordProducer(broker) as producer:
        for step in range(STEPS):
            producer.send(TOPICS.clicks, 0, clicks_of(step), [])
    base, shadow = count_all(broker), run_shadow(broker)
    lookups = read_lookups(broker, 1, records=STEPS)
    assert lookups is not None
    ours = read_hot_set(broker, lookups)
    broker.prefix = TOPICS.shadow("small").prefix
    theirs = read_hot_set(broker, lookups)
    figures = compare_hot_sets(ours, theirs, top=3)
    sets = [set(np.concatenate([s.table.items()[0] for s in w.shards.values()]).tolist()) for w in (base, shadow)]
    assert figures["hot"] == [len(keys) for keys in sets]
    assert figures["in_both"] == len(sets[0] & sets[1])
    assert figures["overlap"] == pytest.approx(len(sets[0] & sets[1]) / len(sets[1]))
    served = [sum(key in keys for key in lookups.tolist()) / len(lookups) for keys in sets]
    assert figures["lookups_served"] == pytest.approx(served)
    assert served[0] > served[1] > 0
    only = figures["only_in_one"]
    assert [len(best) for best in only] == [3, min(3, len(sets[1] - sets[0]))]
    assert only[0][0]["score"] >= only[0][1]["score"] >= only[0][2]["score"]
    for rate, worker in zip(figures["changes_per_million_events"], (base, shadow), strict=True):
        shards = worker.shards.values()
        changes = sum(shard.num_promotions + shard.num_demotions for shard in shards)
        assert rate == pytest.approx(changes / sum(shard.num_events for shard in shards) * 1e6)


def test_without_clicks_and_agents_there_is_nothing_to_compare():
    broker = InMemoryBroker()
    create_topics(broker, TOPICS.specs(shards=SHARDS))
    assert read_lookups(broker, 1, records=3) is None
    nothing = read_hot_set(broker, None)
    figures = compare_hot_sets(nothing, nothing, top=3)
    assert figures["overlap"] is None
    assert figures["changes_per_million_events"] == [None, None]
