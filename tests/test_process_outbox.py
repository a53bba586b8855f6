"""The trainer's outbox: its records, their order, and checkpoints that wait for delivery."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from trainer_batches import click_batch

from sketch.hashing import shard_of
from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.clients.admin import create_topics
from streams.clients.in_memory import InMemoryBroker, Record
from streams.errors import BrokerError, TopicError
from streams.records import ImportanceBatch, TrainerMetrics, decode_importance, decode_metrics
from streams.topics import Topics
from trainer.embedding.lookup import Importance
from trainer.process.outbox import Outbox

SHARDS, STEPS, ROWS, CHECKPOINT_EVERY = 2, 9, 16, 3
TOPICS = Topics()


def empty_broker() -> InMemoryBroker:
    broker = InMemoryBroker(clock_ms=lambda: 5)
    create_topics(broker, TOPICS.specs(click_partitions=2, shards=SHARDS))
    return broker


def click_record(offset: int) -> Record:
    return Record(TOPICS.clicks, 1, offset, 1000 + offset, None, b"", [])


def send(outbox: Outbox, offset: int) -> None:
    """Sends the importance of one click record."""
    batch = click_batch(ROWS, offset)
    keys, counts = np.unique(batch.keys, return_counts=True)
    outbox.send_importance(Importance(keys, counts.astype(np.float32)), click_record(offset), batch)


def stored(broker: InMemoryBroker, shard: int) -> list[ImportanceBatch]:
    batches = [decode_importance(record.value, record.headers) for record in broker.records(TOPICS.importance, shard)]
    assert all(isinstance(batch, ImportanceBatch) for batch in batches)
    return batches  # type: ignore[return-value]


def test_every_click_record_becomes_one_importance_record_a_shard_in_order():
    broker = empty_broker()
    with Outbox(broker, TOPICS, SHARDS, clicks_id="0f" * 16) as outbox:
        for offset in range(STEPS):
            send(outbox, offset)
        outbox.flush()
        assert outbox.importance_records == STEPS * SHARDS
    for shard in range(SHARDS):
        batches = stored(broker, shard)
        assert [batch.source.offset for batch in batches] == list(range(STEPS))
        sources = {(batch.source.signal, batch.source.topic_id, batch.source.partition) for batch in batches}
        assert sources == {("gradient", "0f" * 16, 1)}
        assert [batch.ingest_ms for batch in batches] == [1000 + offset for offset in range(STEPS)]
        assert all((shard_of(batch.keys, SHARDS) == shard).all() for batch in batches)


def test_importance_is_held_until_it_is_released():
    broker = empty_broker()
    with Outbox(broker, TOPICS, SHARDS) as outbox:
        send(outbox, 0)
        assert broker.num_sent == 0
        outbox.release()
        outbox.flush()
        assert broker.num_sent == SHARDS
        send(outbox, 1)  # released by the end
    assert broker.num_sent == 2 * SHARDS


def test_metrics_come_after_the_importance_before_them():
    broker = empty_broker()
    seen, metrics = [], TrainerMetrics(time_ms=1, rows=16, rows_per_s=2.0, lag_records=3, hot=4)
    with Outbox(broker, TOPICS, SHARDS) as outbox:
        send(outbox, 0)
        outbox.send_metrics(metrics)
        outbox.after_delivery(lambda: seen.append(broker.num_sent))
    assert seen == [SHARDS + 1]
    [record] = broker.records(TOPICS.metrics)
    assert decode_metrics(record.value) == metrics


@pytest.mark.parametrize("topic", [TOPICS.clicks, TOPICS.assignments])
@pytest.mark.parametrize(("key", "value"), [(b"k", b"v"), (b"k", None), (None, b""), (None, None)])
def test_a_rejected_record_is_kept_with_its_key_its_nulls_and_its_partition(topic, key, value):
    broker = empty_broker()
    rejected = Record(topic, 1, 7, 0, key, value, [("own", b"1")])
    with Outbox(broker, TOPICS, SHARDS) as outbox:
        outbox.send_dead_letter(rejected, "no good")
    dead_letters = Topics.dead_letters(topic)
    partition = 1 % len(broker.topics[dead_letters])
    [letter] = broker.records(dead_letters, partition)
    named = dict(letter.headers)
    assert (letter.key, letter.value, letter.headers[0]) == (key, value, ("own", b"1"))
    assert (named["dlq-partition"], named["dlq-offset"], named["dlq-message"]) == (b"1", b"7", b"no good")


def test_a_missing_dead_letter_topic_is_named_at_the_start():
    broker = empty_broker()
    del broker.topics[Topics.dead_letters(TOPICS.assignments)]
    with pytest.raises(TopicError, match=r"assignments\.dlq"):
        Outbox(broker, TOPICS, SHARDS)


def train(broker: InMemoryBroker, checkpoints: list[int]) -> None:
    """A run that resumes from the last checkpoint, and writes further ones as a session does."""
    with Outbox(broker, TOPICS, SHARDS) as outbox:
        for offset in range(checkpoints[-1], STEPS):
            send(outbox, offset)
            outbox.release()
            if offset % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1:
                outbox.after_delivery(lambda done=offset + 1: checkpoints.append(done))  # type: ignore[misc]
        outbox.flush()


@pytest.mark.parametrize("lose", ["record", "acknowledgement"])
@pytest.mark.parametrize("second", [None, 0, 1, 4])
def test_a_crash_at_any_record_loses_no_importance_and_the_agent_counts_each_once(lose, second):
    reference = empty_broker()
    train(reference, [0])
    points = reference.crash_points
    assert len(points) == STEPS * SHARDS
    for point in points:
        broker, checkpoints = empty_broker(), [0]
        for records in (point, second):
            if records is not None:
                broker.fail_after(records, lose=lose)
                with suppress(BrokerError):  # a second crash may lie behind the end
                    train(broker, checkpoints)
            for shard in range(SHARDS):  # a checkpoint counts on nothing that is not there
                offsets = {batch.source.offset for batch in stored(broker, shard)}
                assert set(range(checkpoints[-1])) <= offsets, f"crash at {point}"
        assert not broker.is_fault_due or second is not None
        broker.cancel_fault()
        train(broker, checkpoints)
        for shard in range(SHARDS):
            assert_counted_once(broker, reference, shard)


def assert_counted_once(broker: InMemoryBroker, reference: InMemoryBroker, shard: int) -> None:
    """Checks that copies are equal, first copies are in order, and the shard's state is that without a crash."""
    records = [(record.value, record.headers) for record in broker.records(TOPICS.importance, shard)]
    expected = [(record.value, record.headers) for record in reference.records(TOPICS.importance, shard)]
    assert [record for index, record in enumerate(records) if record not in records[:index]] == expected
    states = []
    for batches in (stored(broker, shard), stored(reference, shard)):
        counter = Shard(shard, ShardConfig(capacity=8, num_shards=SHARDS))
        for offset, batch in enumerate(batches):
            counter.count(offset, batch)
        states.append((counter.num_counted, counter.num_events, counter.marks, counter.hot_set.to_bytes()))
    assert states[0] == states[1]
    assert states[0][0] == STEPS
