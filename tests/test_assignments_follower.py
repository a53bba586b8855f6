"""A follower hands on the changes of the hot set, and mends a model that was away; importance is sent by anybody."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_assignments_subscription import CONFIG, SHARDS, changes_of, send

from sketch.changes import NO_ROW, Changes
from sketch.hashing import shard_of
from streams.agent.agreement import Agreement
from streams.agent.shard import Shard
from streams.assignments.follower import follow
from streams.assignments.subscription import HotFeatureTable
from streams.bulk_keys import keys
from streams.clients.admin import create_topics
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.errors import ConfigError
from streams.importance_sender import importance_sender
from streams.keys import Field
from streams.records import Assignment, ImportanceBatch, decode_importance, encode_assignment, encode_fields
from streams.topics import Topics
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.plans import plan_for_capacity


def broker_with_topics() -> InMemoryBroker:
    broker = InMemoryBroker()
    create_topics(broker, Topics().specs(shards=SHARDS))
    return broker


def embedding_of(capacity: int = CONFIG.capacity) -> AdaptiveEmbedding:
    return AdaptiveEmbedding(plan_for_capacity(capacity, 4, 26))


def items_of(embedding: AdaptiveEmbedding) -> dict[int, int]:
    keys, rows = embedding.router.items()
    return dict(zip(keys.tolist(), rows.tolist(), strict=True))


def test_a_model_that_migrates_by_the_changes_has_the_hot_set_of_the_agent():
    broker, shards, embedding = (
        broker_with_topics(),
        [Shard(number, CONFIG) for number in range(SHARDS)],
        embedding_of(),
    )
    send(broker, changes_of(shards, range(20)))
    with follow(broker, capacity=embedding.plan.capacity_rows) as follower:
        embedding.migrate(follower.changes())
        assert embedding.num_hot == CONFIG.capacity
        assert items_of(embedding) == dict(follower.table.items())
        assert len(follower.changes()) == 0
        send(broker, changes_of(shards, range(20, 26)))
        while len(changes := follower.changes()):
            embedding.migrate(changes)
        assert items_of(embedding) == dict(follower.table.items())
        assert follower.table.is_verified


def test_a_restored_model_loses_what_became_cold_while_it_was_away():
    broker, shards, embedding = (
        broker_with_topics(),
        [Shard(number, CONFIG) for number in range(SHARDS)],
        embedding_of(),
    )
    send(broker, changes_of(shards, range(20)))
    ghost = np.array([(7 << 56) | 999_999], np.uint64)
    with follow(broker) as follower:
        embedding.migrate(follower.changes())
        before = dict(follower.table.items())
    embedding.migrate(Changes(ghost, np.array([0], np.int32), np.ones(1, np.float32)))
    send(broker, changes_of(shards, range(20, 26)))
    broker.compact(Topics().assignments)
    with follow(broker, known=embedding.hot_keys()) as follower:
        changes = follower.changes()
        assert ghost[0] in changes.key[changes.row == NO_ROW]
        embedding.migrate(changes)
        assert items_of(embedding) == dict(follower.table.items()) != before


def test_the_agents_capacity_is_known_and_a_smaller_model_is_refused():
    broker = broker_with_topics()
    with follow(broker, capacity=5) as follower, pytest.raises(ConfigError, match="start `hotstream agent --capacity"):
        _ = follower.capacity
    Agreement(broker, CONFIG, group="agents", signals=["gradient"]).join()
    with follow(broker, capacity=CONFIG.capacity) as follower:
        assert follower.capacity == CONFIG.capacity
    with pytest.raises(ConfigError, match=r"a model of 5 unique rows, expected at least 40 .* plan_for_capacity\(40"):
        follow(broker, capacity=5)


# ---- importance ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Scores:
    """What any trainer may send."""

    keys: np.ndarray
    scores: np.ndarray


def test_keys_of_raw_values_are_made_with_the_recorded_fields():
    connector = InMemoryBroker(prefix="t")
    topics = Topics("t")
    create_topics(connector, topics.specs())
    table, follower = HotFeatureTable(connector), follow(connector)
    with pytest.raises(ConfigError, match=r"topic t\.control: got no fields, expected those of a replay or an agent"):
        _ = table.fields
    fields = (Field("site"), Field("ad", "hex32"))
    columns = {"site": ["a", "b"], "ad": ["0000000f", None]}
    hot = int(keys(fields, columns)[0, 1])
    shard = int(shard_of(np.array([hot], np.uint64), len(table.table.shards))[0])
    change = Assignment(
        key=hot, tier="hot", row=7, shard=shard, epoch=1, seq=1, score=1.0, source=(0, 0), event_time_ms=0
    )
    with RecordProducer(connector) as producer:
        name, value, headers = encode_fields(fields)
        producer.send(topics.control, 0, value, headers, key=name)
        name, value, headers = encode_assignment(change, fields)
        producer.send(topics.assignments, shard, value, headers, key=name)
    table.refresh()
    assert table.fields == follower.fields == fields
    assert table.lookup(keys(table.fields, columns)).tolist() == [[-1, 7], [-1, -1]]


def test_anybodys_importance_is_counted_once_by_the_agents():
    broker, fields = broker_with_topics(), [Field("site"), Field("ad", "hex32")]
    keys = (np.uint64(1) << np.uint64(56)) | np.arange(1, 30, dtype=np.uint64)
    shards = [Shard(number, CONFIG) for number in range(SHARDS)]
    with importance_sender(broker, fields) as sender:
        for step in (3, 4):
            assert sender.send(Scores(keys, np.full(29, step)), offset=step, event_time_ms=7) == SHARDS
        with pytest.raises(ConfigError, match=r"offset: got 4 after 4 of partition 0, expected more"):
            sender.send(Scores(keys, np.ones(29)), offset=4)
        sender.send(Scores(keys, np.ones(29)), offset=4, partition=1)
        sender.flush()
    with importance_sender(broker, fields) as sender:  # the trainer starts again, from an earlier step
        sender.send(Scores(keys, np.full(29, 4)), offset=4)
    total = 0.0
    for number, shard in enumerate(shards):
        for record in broker.records(Topics().importance, number):
            batch = decode_importance(record.value, record.headers)
            assert isinstance(batch, ImportanceBatch)
            assert (shard_of(batch.keys, SHARDS) == number).all()
            assert batch.fields == tuple(fields)
            shard.count(record.offset, batch)
        total += float(shard.hot_set.sketch.query(keys).sum())
    assert total == pytest.approx(29 * (3 + 4 + 1), rel=0.02)
