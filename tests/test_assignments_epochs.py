"""A new epoch: its owner announces it in every shard before it counts, and readers forget the former table."""

from __future__ import annotations

import asyncio
import doctest
from dataclasses import replace

from agent_driver import GRADIENT, SHARD_CONFIG, SHARDS, TOPICS, adopt, broker_with_importance, count_all

from streams.agent.agreement import Agreement
from streams.agent.worker import AgentWorker
from streams.assignments import feature_names
from streams.assignments.reader import AssignmentReader
from streams.assignments.subscription import HotFeatureTable
from streams.clients.admin import create_topics
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.records import Assignment, Digest, encode_digest

SMALLER = replace(GRADIENT, shards=replace(SHARD_CONFIG, capacity=12))


def switch(broker: InMemoryBroker) -> AgentWorker:
    """An agent with another configuration that has its shards and has counted nothing yet."""
    join = Agreement(broker, SMALLER.shards, group=SMALLER.group, signals=SMALLER.signals).join
    join(begins_epoch=True)

    async def live() -> AgentWorker:
        worker = AgentWorker(SMALLER, broker)
        await adopt(worker, set(range(SHARDS)))
        await worker.stop()
        return worker

    return asyncio.run(live())


def test_a_new_epoch_makes_every_shard_cold_before_its_first_change():
    broker = broker_with_importance()
    count_all(broker)
    with HotFeatureTable(broker) as table, AssignmentReader(broker) as reader:
        assert table.table.num_hot > 12
        reader.catch_up()
        switch(broker)
        table.refresh()
        assert (table.table.num_hot, table.table.is_verified) == (0, True)
        assert {view.epoch for view in table.table.shards} == {2}
    broker.compact(TOPICS.assignments)
    with HotFeatureTable(broker) as table:
        assert (table.table.num_hot, table.table.is_verified) == (0, True)


def test_a_new_epoch_is_a_change_to_cold_of_every_hot_feature():
    broker = broker_with_importance()
    count_all(broker)
    with AssignmentReader(broker) as reader:
        hot: dict[int, str | None] = {}
        while any(position < reader.end_offsets()[shard] for shard, position in reader.positions().items()):
            for change, _ in reader.poll():
                if isinstance(change, Assignment):
                    hot.pop(change.key, None)
                    hot.update({change.key: change.feature} if change.tier == "hot" else {})
        switch(broker)
        news = [change for change, _ in reader.poll() if isinstance(change, Assignment)]
    assert {change.key: change.feature for change in news} == hot
    assert {(change.tier, change.epoch) for change in news} == {("cold", 2)}


def test_a_version_that_no_importance_explains_is_outdone_in_an_empty_shard_too():
    broker = InMemoryBroker()
    create_topics(broker, TOPICS.specs(shards=SHARDS))

    async def live() -> None:
        for is_forged in (False, True):
            if is_forged:
                forge(broker, Digest(shard=0, epoch=7, seq=99, hot=3, digest=5, generation=5))
            worker = AgentWorker(GRADIENT, broker)
            await adopt(worker, set(range(SHARDS)))
            for _ in range(3):
                await worker.check()
            await worker.stop()

    def forge(broker: InMemoryBroker, digest: Digest) -> None:
        key, value, headers = encode_digest(digest)
        with RecordProducer(broker) as producer:
            producer.send(TOPICS.assignments, 0, value, headers, key=key)

    asyncio.run(live())
    broker.compact(TOPICS.assignments)
    with HotFeatureTable(broker) as table:
        assert [view.epoch for view in table.table.shards] == [8, 1]
        assert table.table.is_verified


def test_the_doctest_of_feature_names_passes():
    assert doctest.testmod(feature_names).failed == 0
