"""The agent on an in-memory broker: after a crash at any record that it sends and a restart, the result is the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agent_driver import (
    FREQUENCY,
    GRADIENT,
    RULE,
    SHARD_CONFIG,
    SHARDS,
    STEPS,
    TOPICS,
    adopt,
    broker_with_importance,
    clicks_of,
    count_all,
    importance_of,
    inputs,
    written,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.agent.shard import Shard
from streams.agent.worker import AgentWorker
from streams.assignments.subscription import HotFeatureTable
from streams.clients.admin import create_topics
from streams.clients.in_memory import CrashError, InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.errors import TopicError
from streams.records import (
    encode_importance,
    write_snapshot,
)


def without_copies(records: list[Any]) -> list[Any]:
    """The records without later copies."""
    return [record for index, record in enumerate(records) if record not in records[:index]]


def assert_no_trace(broker: InMemoryBroker, worker: AgentWorker) -> None:
    """Checks that the state is, bit for bit, that of an agent without a crash, and that no change is missing."""
    for number, (shard, expected) in enumerate(zip(*RULE, strict=True)):
        assert worker.shards[number].to_bytes() == shard.to_bytes()
        assert without_copies(written(broker, number)) == expected
    with HotFeatureTable(broker) as table:
        assert table.table.is_verified
        assert table.table.num_hot == sum(shard.table.num_hot for shard in RULE[0])
    broker.compact(TOPICS.assignments)
    with HotFeatureTable(broker) as table:
        assert table.table.is_verified


def crash_points() -> list[int]:
    """The number of records that an agent has sent before each of its requests."""
    broker = broker_with_importance()
    before = broker.num_sent
    worker = count_all(broker)
    assert_no_trace(broker, worker)
    return [point - before for point in broker.crash_points if point >= before]


POINTS = crash_points()


def test_the_run_is_long_enough_to_crash_in_every_phase():
    assert len(POINTS) > 40
    assert all(shard.seq > 20 and shard.num_demotions for shard in RULE[0])


@pytest.mark.parametrize("lose", ["record", "acknowledgement"])
def test_a_crash_at_any_record_loses_nothing_and_doubles_no_change(lose):
    for point in POINTS:
        broker = broker_with_importance()
        broker.fail_after(point, lose=lose)
        with pytest.raises(CrashError):
            count_all(broker)
        worker = count_all(broker)
        for number, expected in enumerate(RULE[1]):
            copies = len(written(broker, number)) - len(expected)
            assert copies in (0, 1), f"crash at {point}: {copies} copies of records of shard {number}"
        assert_no_trace(broker, worker)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(["record", "acknowledgement", "twice"]), st.integers(0, POINTS[-1])),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 6),
)
def test_any_crashes_and_repeated_requests_one_after_the_other_leave_no_trace(faults, batch):
    broker = broker_with_importance(batch=batch)
    for kind, point in faults:
        if kind == "twice":
            broker.store_twice_after(point)
        else:
            broker.fail_after(point, lose=kind)
        try:
            count_all(broker)
        except CrashError:
            continue
    broker.cancel_fault()
    assert_no_trace(broker, count_all(broker))


def test_only_the_newest_digest_is_ever_written_again():
    broker = broker_with_importance()
    count_all(broker)
    before = [written(broker, number) for number in range(SHARDS)]
    for number in range(SHARDS):  # all snapshots but the first are lost: everything is computed again
        broker.topics[TOPICS.snapshots][number].records[:] = broker.records(TOPICS.snapshots, number)[:2]
    count_all(broker)
    after = [written(broker, number) for number in range(SHARDS)]
    assert after == [[*records, records[-1]] for records in before]


def test_a_shard_whose_snapshots_are_all_damaged_begins_a_new_epoch(caplog):
    broker = broker_with_importance()
    count_all(broker)
    log = broker.topics[TOPICS.snapshots][1]
    log.records = [record._replace(value=b"damaged") if b"/" in record.key else record for record in log.records]
    worker = count_all(broker)
    assert (worker.shards[1].epoch, worker.shards[1].num_counted) == (2, STEPS)
    assert "shard 1: the snapshot in hotstream.sketch-snapshots is refused (all are damaged" in caplog.text
    with HotFeatureTable(broker) as table:
        assert table.table.is_verified


@pytest.mark.parametrize(
    "forged", [b"", b"hotstream-shard", Shard(0, SHARD_CONFIG).to_bytes()], ids=["empty", "cut", "other"]
)
def test_a_forged_snapshot_begins_a_new_epoch_and_ends_no_agent(forged, caplog):
    broker = broker_with_importance()
    count_all(broker)
    chunks, closing, _ = write_snapshot(1, forged, previous=None)
    with RecordProducer(broker) as producer:
        for record in (*chunks, closing):
            producer.send(TOPICS.snapshots, 1, record.value, record.headers, key=record.key)
    worker = count_all(broker)
    assert worker.shards[1].epoch == 2
    assert worker.shards[1].num_counted == STEPS
    assert "shard 1: the snapshot in hotstream.sketch-snapshots is refused" in caplog.text
    assert count_all(broker).shards[1].epoch == 2
    with HotFeatureTable(broker) as table:
        assert table.table.is_verified


def test_many_bad_records_are_one_log_line_a_second(caplog):
    broker = broker_with_importance()
    with RecordProducer(broker) as producer:
        for number in range(500):
            producer.send(TOPICS.importance, 1, b"x" * 40_000, [("h", None)], key=b"%d" % number)
        producer.send(TOPICS.importance, 1, *encode_importance(importance_of(STEPS, 1)))
    worker = count_all(broker)
    assert worker.num_bad == 500
    assert worker.shards[1].num_counted == STEPS + 1
    letters = [
        record for number in range(SHARDS) for record in broker.records(TOPICS.dead_letters(TOPICS.importance), number)
    ]
    assert [letter.key for letter in letters] == [b"%d" % number for number in range(500)]
    assert all(dict(letter.headers)["h"] is None for letter in letters)
    lines = [record for record in caplog.records if "bad record" in record.getMessage()]
    assert 1 <= len(lines) <= 10  # the test takes less than 10 s
    assert all(len(line.getMessage()) < 700 for line in lines)


def test_an_agent_without_dead_letter_topics_does_not_start():
    broker = broker_with_importance()
    del broker.topics[TOPICS.dead_letters(TOPICS.importance)]
    with pytest.raises(TopicError, match=r"importance\.dlq"):
        count_all(broker)


def test_an_agent_that_stops_while_it_checks_its_shards_ends_without_an_error():
    broker = broker_with_importance()

    async def check_and_stop() -> None:
        worker = AgentWorker(GRADIENT, broker)
        await adopt(worker, set(range(SHARDS)))
        await asyncio.gather(worker.check(), worker.stop())

    asyncio.run(check_and_stop())


def test_bad_importance_goes_to_the_dead_letters_with_its_key_its_nulls_and_its_partition():
    broker = broker_with_importance()
    with RecordProducer(broker) as producer:
        producer.send(TOPICS.importance, 1, None, [("h", b"1")], key=b"k")
        producer.send(TOPICS.importance, 1, None, [])
    worker = count_all(broker)
    assert worker.num_bad == 2
    first, second = broker.records(TOPICS.dead_letters(TOPICS.importance), 1)
    assert (first.key, first.value, first.headers[0]) == (b"k", None, ("h", b"1"))
    assert (second.key, second.value) == (None, None)
    assert dict(second.headers)["dlq-offset"] == b"%d" % (STEPS + 1)


def test_records_that_were_skipped_are_read_and_counted_before_the_one_that_came():
    broker = broker_with_importance()

    async def live() -> AgentWorker:
        worker = AgentWorker(GRADIENT, broker)
        await adopt(worker, {0, 1})
        records = inputs(broker, TOPICS.importance, worker.own_offsets())
        for record in [*records[:2], *records[-2:], *records[2:4]]:
            await worker.count_importance(record)
        await worker.stop()
        return worker

    assert_no_trace(broker, asyncio.run(live()))


# ---- clicks: the agent that counts them itself ---------------------------------------------------------------------


def broker_with_clicks() -> InMemoryBroker:
    broker = InMemoryBroker(max_batch_records=1, clock_ms=lambda: 5, has_topic_ids=False)
    create_topics(broker, TOPICS.specs(shards=SHARDS))
    with RecordProducer(broker) as producer:
        for step in range(STEPS):
            producer.send(TOPICS.clicks, 0, clicks_of(step) if step != 3 else b"no clicks", [])
    return broker


def count_clicks(broker: InMemoryBroker, committed: list[int]) -> None:
    """An agent that acknowledges every second click record, as the last element of `committed`."""

    async def live() -> None:
        worker = AgentWorker(FREQUENCY, broker)
        await worker.start()
        for record in inputs(broker, TOPICS.clicks, {0: committed[-1]}):
            await worker.count_clicks(record)
            if record.offset % 2 or record.offset == STEPS - 1:
                await worker.deliver()
                committed.append(record.offset + 1)
        await worker.stop()

    asyncio.run(live())


@pytest.mark.parametrize("lose", ["record", "acknowledgement"])
def test_an_agent_that_counts_clicks_loses_none_wherever_it_crashes(lose):
    broker = broker_with_clicks()
    before = broker.num_sent
    count_clicks(broker, [0])
    points = broker.num_sent - before
    expected = [broker.records(TOPICS.importance, shard) for shard in range(SHARDS)]
    assert [len(records) for records in expected] == [STEPS - 1] * SHARDS
    for point in range(points):
        broker, committed = broker_with_clicks(), [0]
        broker.fail_after(point, lose=lose)
        with pytest.raises(CrashError):
            count_clicks(broker, committed)
        for shard in range(SHARDS):  # what is acknowledged is there
            stored = {int(dict(record.headers)["offset"]) for record in broker.records(TOPICS.importance, shard)}
            assert set(range(committed[-1])) - {3} <= stored
        count_clicks(broker, committed)
        for shard, records in enumerate(expected):
            again = [(record.value, record.headers) for record in broker.records(TOPICS.importance, shard)]
            assert without_copies(again) == [(record.value, record.headers) for record in records]
        letters = broker.records(TOPICS.dead_letters(TOPICS.clicks))
        assert {letter.value for letter in letters} == {b"no clicks"}


def test_a_record_that_comes_before_the_shards_are_loaded_is_not_waited_for_without_end():
    broker = broker_with_importance()

    async def live() -> AgentWorker:
        worker = AgentWorker(GRADIENT, broker)
        records = inputs(broker, TOPICS.importance, {0: 0, 1: 0})
        early = asyncio.create_task(worker.count_importance(records[0]))
        await asyncio.sleep(0)  # it waits
        await adopt(worker, set(range(SHARDS)))
        for _ in range(100):
            await asyncio.sleep(0)
        assert early.done()
        for record in records:
            await worker.count_importance(record)
        await worker.stop()
        return worker

    worker = asyncio.run(live())
    assert [shard.num_counted for shard in worker.shards.values()] == [STEPS, STEPS]
