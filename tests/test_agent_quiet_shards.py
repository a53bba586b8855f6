"""A shard with few events: it is reviewed by event time, too, and the agent explains why nothing has changed yet."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from agent_driver import FREQUENCY, GRADIENT, SHARDS, TOPICS, adopt, broker_with_importance, importance_of, inputs

from sketch import HotSet, HotSketch
from streams.agent.shard import REVIEW_MS, Shard
from streams.agent.worker import AgentConfig, AgentWorker
from streams.clients.admin import create_topics
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.records import Digest, ImportanceBatch, decode_assignment, encode_importance

START_MS = 1_700_000_000_000


def small(number: int, after_ms: int) -> ImportanceBatch:
    """A record of ten features of shard 0."""
    batch = importance_of(0, 0)
    return replace(
        batch,
        keys=batch.keys[:10],
        scores=batch.scores[:10],
        source=replace(batch.source, offset=number),
        event_time_ms=START_MS + after_ms,
    )


def count(shard: Shard, times_ms: list[int]) -> list[int]:
    """The number of records published for each record of these times."""
    counts = []
    for number, after_ms in enumerate(times_ms, shard.next_offset):
        records = shard.count(number, small(number, after_ms))
        assert isinstance(records, list)
        counts.append(len(records))
    return counts


def test_a_quiet_shard_is_reviewed_by_event_time():
    shard = Shard(0, GRADIENT.shards)
    assert count(shard, [0, 5, REVIEW_MS - 1]) == [0, 0, 0]
    assert count(shard, [REVIEW_MS, REVIEW_MS + 5]) == [11, 0]  # ten changes and a digest
    assert shard.table.num_hot == 10
    assert count(shard, [0]) == [0]  # an older time is a review that changes nothing


def test_a_restarted_agent_reviews_a_quiet_shard_at_the_same_records():
    times_ms = [0, 4000, 9000, 12_000, 15_000, 21_000, 23_000, 40_000]
    whole = Shard(0, GRADIENT.shards)
    expected = count(whole, times_ms)
    for cut in range(len(times_ms)):
        shard = Shard(0, GRADIENT.shards)
        counts = count(shard, times_ms[:cut])
        shard = Shard.from_bytes(shard.to_bytes(), GRADIENT.shards)
        assert counts + count(shard, times_ms[cut:]) == expected
        assert shard.to_bytes() == whole.to_bytes()


def test_a_busy_shard_is_not_reviewed_more_often_for_its_times():
    plain, late = Shard(0, GRADIENT.shards), Shard(0, GRADIENT.shards)
    for number in range(4):
        keys = np.tile(importance_of(number, 0).keys, 20)[:5000]  # more than one review
        batch = replace(small(number, 0), keys=keys, scores=np.ones(len(keys), np.float32))
        plain.count(number, batch)
        late.count(number, replace(batch, event_time_ms=START_MS + number * 10 * REVIEW_MS))
    assert late.hot_set.to_bytes() == plain.hot_set.to_bytes()


def test_an_early_review_keeps_the_capacity_and_the_snapshot_whole():
    random = np.random.default_rng(1)
    hot_set, hot = HotSet(8, HotSketch(16)), dict[int, int]()
    for _ in range(200):
        hot_set.update(random.zipf(1.3, 50).astype(np.uint64) % np.uint64(300))
        changes = hot_set.review()
        for key, row in zip(changes.key.tolist(), changes.row.tolist(), strict=True):
            hot = {known: at for known, at in hot.items() if known != key}
            if row >= 0:
                assert row not in hot.values()
                hot[key] = row
            assert len(hot) <= 8
    # evictions between two reviews are changes of `update`, so the set may have lost keys of `hot` but has no other
    keys, rows = HotSet.from_bytes(hot_set.to_bytes()).table()
    assert len(keys) == hot_set.num_hot > 4
    assert all(hot[key] == row for key, row in zip(keys.tolist(), rows.tolist(), strict=True))


def run(broker: InMemoryBroker, config: AgentConfig) -> AgentWorker:
    async def live() -> AgentWorker:
        worker = AgentWorker(config, broker)
        await adopt(worker, set(range(SHARDS)))
        for record in inputs(broker, TOPICS.importance, worker.own_offsets()):
            await worker.count_importance(record)
        await worker.check()
        await worker.check()
        await worker.stop()
        return worker

    return asyncio.run(live())


def test_the_agent_explains_once_why_nothing_has_changed_yet(caplog):
    broker = InMemoryBroker()
    create_topics(broker, TOPICS.specs(shards=SHARDS))
    with RecordProducer(broker) as producer:
        for number in range(3):
            producer.send(TOPICS.importance, 0, *encode_importance(small(number, number)))
    with caplog.at_level(logging.INFO, logger="streams.agent"):
        run(broker, GRADIENT)
    (line,) = [message for message in caplog.messages if "no change yet" in message]
    assert "shard 0: 30 feature events counted and no change yet: the first one comes after 4096 events" in line
    assert "event time is 10 s or more" in line


def test_steps_that_are_numbered_from_the_start_again_are_told_of(caplog):
    broker = InMemoryBroker()
    create_topics(broker, TOPICS.specs(shards=SHARDS))
    with RecordProducer(broker) as producer:
        for number in (0, 1, 2, 0, 1, 2):
            producer.send(TOPICS.importance, 0, *encode_importance(small(number, number)))
    with caplog.at_level(logging.INFO, logger="streams.agent"):
        worker = run(broker, GRADIENT)
    shard = worker.metrics().shards[0]
    assert (shard.counted, shard.repeated) == (3, 3)
    lines = [message for message in caplog.messages if "was counted before" in message]
    assert [message.partition("skipped; ")[2][:1] for message in lines] == ["1", "2"]
    assert "a trainer of your own numbers its steps on, over all its runs" in lines[0]


def test_importance_of_another_signal_is_counted_apart_and_named_once(caplog):
    worker = run(broker_with_importance(), replace(FREQUENCY, signals=frozenset({"frequency"})))
    metrics = worker.metrics().shards
    assert [(shard.counted, shard.other_signals) for shard in metrics.values()] == [(0, 8), (0, 8)]
    warnings = [message for message in caplog.messages if "gradient is skipped" in message]
    assert len(warnings) == SHARDS
    assert "--signal both" in warnings[0]


@pytest.mark.parametrize("config", [GRADIENT])
def test_seq_stays_gapless_when_both_kinds_of_review_publish(config):
    shard, published = Shard(0, config.shards), []
    for number in range(30):
        batch = importance_of(number // 8, 0)
        source = replace(batch.source, offset=number)
        published += shard.count(number, replace(batch, source=source, event_time_ms=START_MS + number * 4000))
    changes = [known for known in (decode_assignment(*one) for one in published) if not isinstance(known, Digest)]
    seqs = [change.seq for change in changes]
    assert all(after == before + 1 for before, after in pairwise(seqs))
    assert len(seqs) > 20
