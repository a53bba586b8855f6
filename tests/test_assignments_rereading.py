"""A reader that was away longer than tombstones are kept: a digest proves the loss, and it reads the topic again."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from agent_driver import GRADIENT, SHARDS, STEPS, TOPICS, adopt, broker_with_importance, inputs

from streams.agent.worker import AgentWorker
from streams.assignments.follower import follow
from streams.assignments.reader import AssignmentReader
from streams.assignments.subscription import HotFeatureTable
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.records import Assignment, encode_digest
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.plans import plan_for_capacity


def count(broker: InMemoryBroker, begin: int, end: int) -> AgentWorker:
    """Runs an agent that counts the importance records with these offsets."""

    async def live() -> AgentWorker:
        worker = AgentWorker(GRADIENT, broker)
        await adopt(worker, set(range(SHARDS)))
        for record in inputs(broker, TOPICS.importance, worker.own_offsets()):
            if begin <= record.offset < end:
                await worker.count_importance(record)
        await worker.stop()
        return worker

    return asyncio.run(live())


def rows_of(worker: AgentWorker) -> dict[int, int]:
    items = [shard.table.items() for shard in worker.shards.values()]
    return {int(key): int(row) for keys, rows in items for key, row in zip(keys, rows, strict=True)}


def read(reader: AssignmentReader) -> list[Assignment]:
    """The changes up to the present end."""
    ends, changes = reader.end_offsets(), list[Assignment]()
    while any(position < ends[number] for number, position in reader.positions().items()):
        changes += [change for change, _ in reader.poll() if isinstance(change, Assignment)]
    return changes


def test_a_table_that_missed_a_deleted_tombstone_reads_the_topic_again(caplog):
    broker = broker_with_importance()
    count(broker, 0, 4)
    with HotFeatureTable(broker) as table:
        worker = count(broker, 4, STEPS)
        broker.compact(TOPICS.assignments, keeps_tombstones=False)
        table.refresh()
        assert dict(table.table.items()) == rows_of(worker)
        assert table.table.is_verified
    assert "a digest differs, so a change was lost; reading it again" in caplog.text


def test_subscribers_get_what_they_missed_as_changes():
    broker = broker_with_importance()
    count(broker, 0, 4)
    with AssignmentReader(broker) as reader:
        changes = read(reader)
        worker = count(broker, 4, STEPS)
        broker.compact(TOPICS.assignments, keeps_tombstones=False)
        changes += read(reader)
    followed: dict[int, int] = {}
    for change in changes:
        assert change.feature is not None
        followed = {key: row for key, row in followed.items() if key != change.key and row != change.row}
        if change.row is not None:
            followed[change.key] = change.row
    assert followed == rows_of(worker)


def test_a_model_that_follows_gets_what_it_missed_as_changes():
    broker = broker_with_importance()
    count(broker, 0, 4)
    embedding = AdaptiveEmbedding(plan_for_capacity(GRADIENT.shards.capacity, 4, 26))
    with follow(broker, capacity=embedding.plan.capacity_rows) as follower:
        embedding.migrate(follower.changes())
        worker = count(broker, 4, STEPS)
        broker.compact(TOPICS.assignments, keeps_tombstones=False)
        while len(changes := follower.changes(timeout_ms=100)):
            embedding.migrate(changes)
        keys, rows = embedding.router.items()
        assert dict(zip(keys.tolist(), rows.tolist(), strict=True)) == rows_of(worker)


def test_a_digest_that_the_log_does_not_explain_is_read_again_once_only(caplog):
    broker = broker_with_importance()
    worker = count(broker, 0, STEPS)
    with HotFeatureTable(broker) as table:
        key, value, headers = encode_digest(replace(worker.shards[0].describe(), digest=1))
        for _ in range(3):
            with RecordProducer(broker) as producer:
                producer.send(TOPICS.assignments, 0, value, headers, key=key)
            table.refresh()
        assert table.table.history.verified is False
        assert dict(table.table.items()) == rows_of(worker)
    assert caplog.text.count("reading it again") == 1
