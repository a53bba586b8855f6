"""Two processes that believe to own a shard: whatever the wrong one writes, a new subscriber gets the owner's table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from agent_driver import (
    GRADIENT,
    RULE,
    SHARDS,
    STEPS,
    TOPICS,
    adopt,
    broker_with_importance,
    importance_of,
    inputs,
    written,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.agent.shard import Shard
from streams.agent.worker import AgentConfig, AgentWorker
from streams.assignments.subscription import HotFeatureTable
from streams.clients.admin import create_topics
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.errors import FencedError, TopicError
from streams.records import Assignment, decode_assignment, encode_assignment, encode_importance

PATIENT = replace(GRADIENT, session_timeout_s=1e6)  # never asks whether another process wrote
RARELY = replace(GRADIENT, snapshot_every=10**6)
HASTY = replace(GRADIENT, session_timeout_s=0.0)  # asks before every batch


async def start(broker: InMemoryBroker, config: AgentConfig = GRADIENT, *, shards: int = SHARDS) -> AgentWorker:
    worker = AgentWorker(config, broker)
    await adopt(worker, set(range(shards)))
    return worker


async def count(broker: InMemoryBroker, worker: AgentWorker, *, until: int = STEPS) -> None:
    for record in inputs(broker, TOPICS.importance, worker.own_offsets()):
        if record.offset < until:
            await worker.count_importance(record)
    for _ in range(100):  # the broker answers at once, so this is more than enough for all that is under way
        await asyncio.sleep(0)


async def check(worker: AgentWorker, *, times: int = 3) -> None:
    for _ in range(times):
        await worker.check()


def make_again(broker: InMemoryBroker, topic: str) -> None:
    broker.delete_topic(topic)
    create_topics(broker, TOPICS.specs(shards=SHARDS))


async def notice(worker: AgentWorker, is_noticed: Callable[[], bool]) -> None:
    """Checks until the watch has looked at the topics, in its own thread."""
    deadline_s = time.monotonic() + 60
    while not is_noticed() and time.monotonic() < deadline_s:
        await worker.check()
        await asyncio.sleep(0.05)


def assert_the_table_is_the_owners(broker: InMemoryBroker, worker: AgentWorker) -> None:
    broker.compact(TOPICS.assignments)
    with HotFeatureTable(broker) as table:
        assert table.table.is_verified
        for number, shard in worker.shards.items():
            assert dict(zip(*map(list, table.table.shards[number].table.items()), strict=True)) == dict(
                zip(*map(list, shard.table.items()), strict=True)
            )


def test_a_process_that_lost_its_shards_writes_old_changes_and_the_owner_restates_them():
    broker = broker_with_importance()

    async def live() -> AgentWorker:
        zombie = await start(broker, PATIENT)
        await count(broker, zombie, until=2)
        owner = await start(broker)
        await count(broker, owner)
        await count(broker, zombie, until=6)  # behind the newer records
        broker.compact(TOPICS.assignments)
        with HotFeatureTable(broker) as table:
            assert not table.table.is_verified  # what the test is about: the log alone is wrong now
        await check(owner)
        return owner

    owner = asyncio.run(live())
    assert_the_table_is_the_owners(broker, owner)
    assert [shard.seq for shard in owner.shards.values()] == [shard.seq for shard in RULE[0]]


def test_a_subscriber_that_follows_drops_what_a_former_owner_writes():
    broker = broker_with_importance()

    async def live() -> tuple[HotFeatureTable, AgentWorker]:
        zombie = await start(broker, PATIENT)
        await count(broker, zombie, until=2)
        owner = await start(broker)
        await count(broker, owner)
        table = HotFeatureTable(broker)
        await count(broker, zombie)
        return table, owner

    table, owner = asyncio.run(live())
    assert table.refresh() == 0
    assert table.table.is_verified
    assert all(view.generation == 2 for view in table.table.shards)
    assert table.table.num_hot == sum(shard.table.num_hot for shard in owner.shards.values())


def test_a_process_that_asks_first_writes_nothing_once_another_owns_its_shards(caplog):
    broker = broker_with_importance()

    async def live() -> list[int]:
        zombie = await start(broker, HASTY)
        await count(broker, zombie, until=2)
        owner = await start(broker)
        await count(broker, owner)
        before = [len(broker.records(TOPICS.assignments, number)) for number in range(SHARDS)]
        snapshots = [len(broker.records(TOPICS.snapshots, number)) for number in range(SHARDS)]
        await count(broker, zombie)
        await zombie.release()
        assert [len(broker.records(TOPICS.assignments, number)) for number in range(SHARDS)] == before
        assert [len(broker.records(TOPICS.snapshots, number)) for number in range(SHARDS)] == snapshots
        return sorted(zombie.shards)

    assert asyncio.run(live()) == []
    assert "another process writes to it" in caplog.text


def test_a_process_that_got_its_shards_back_goes_on_with_the_newest_state():
    broker = broker_with_importance()

    async def live() -> AgentWorker:
        first = await start(broker)
        await count(broker, first, until=2)
        await first.release()
        second = await start(broker)
        await count(broker, second, until=5)
        await second.stop()
        await adopt(first, {0, 1})
        assert first.own_offsets() == {0: 5, 1: 5}
        await count(broker, first)
        await check(first)
        return first

    first = asyncio.run(live())
    assert [shard.generation for shard in first.shards.values()] == [3, 3]
    assert [shard.to_bytes() for shard in first.shards.values()] == [shard.to_bytes() for shard in RULE[0]]
    assert_the_table_is_the_owners(broker, first)


def test_a_rebalance_that_leaves_a_shard_where_it_is_loads_nothing_again():
    broker = broker_with_importance()

    async def live() -> None:
        worker = await start(broker)
        await count(broker, worker, until=4)
        before = dict(worker.shards)
        await worker.release()
        assert worker.shards == {}
        await adopt(worker, {0})
        assert worker.shards == {0: before[0]}
        assert worker.shards[0].generation == 1

    asyncio.run(live())


def test_a_shard_that_has_to_be_loaded_does_not_keep_the_others_waiting():
    broker = broker_with_importance()

    async def live() -> None:
        worker = await start(broker, shards=1)
        await worker.assign({0, 1})
        await count(broker, worker, until=4)
        assert worker.own_offsets() == {0: 4}
        assert [numbers async for numbers in worker.load()] == [{1}]
        assert worker.own_offsets() == {0: 4, 1: 0}

    asyncio.run(live())


def test_a_group_that_changes_again_does_not_wait_for_the_shards_that_are_not_loaded():
    broker = broker_with_importance()

    async def live() -> None:
        worker = await start(broker, shards=0)
        await worker.assign({0, 1})
        loading = worker.load()
        await worker.release()
        assert [numbers async for numbers in loading] == []
        await adopt(worker, {1})
        assert worker.own_offsets() == {1: 0}
        assert not broker.records(TOPICS.assignments, 0)

    asyncio.run(live())


@pytest.mark.parametrize("is_much", [False, True])
def test_a_shard_is_given_back_with_a_snapshot_where_counting_again_takes_longer(is_much, monkeypatch):
    monkeypatch.setattr("streams.agent.snapshot_keeper._EVENTS_PER_ROW", 100 if is_much else 100_000)
    broker = broker_with_importance()

    async def live() -> AgentWorker:
        first = await start(broker, RARELY)
        await count(broker, first, until=5)
        of_its_start = len(broker.records(TOPICS.snapshots, 0))
        await first.release()
        assert (len(broker.records(TOPICS.snapshots, 0)) > of_its_start) == is_much
        second = await start(broker, RARELY)
        assert second.own_offsets()[0] == (5 if is_much else 0)
        await count(broker, second)
        await second.release()
        await adopt(first, {0})
        assert first.own_offsets()[0] == (STEPS if is_much else 0)
        await count(broker, first)
        return first

    owner = asyncio.run(live())
    assert owner.shards[0].seq == RULE[0][0].seq
    assert owner.shards[0].table.digest == RULE[0][0].table.digest
    with HotFeatureTable(broker) as table:
        assert table.table.is_verified
        assert table.table.shards[0].table.digest == RULE[0][0].table.digest


def test_an_epoch_that_no_importance_explains_is_outdone_by_the_next_owner_too(caplog):
    broker = broker_with_importance()

    async def live() -> AgentWorker:
        first = await start(broker, RARELY)
        await count(broker, first, until=4)
        key = RULE[0][0].table.items()[0][0].item()
        forged = Assignment(key=key, tier="cold", shard=0, epoch=7, seq=10**6, generation=1)
        with RecordProducer(broker) as producer:
            name, value, headers = encode_assignment(forged, RULE[0][0].fields)
            producer.send(TOPICS.assignments, 0, value, headers, key=name)
        second = await start(broker, RARELY)
        assert second.shards[0].epoch == 8
        await second.stop()  # with a snapshot, though it has counted nothing
        third = await start(broker, RARELY)
        assert third.shards[0].epoch == 8
        await count(broker, third)
        return third

    owner = asyncio.run(live())
    assert caplog.text.count("beginning a new epoch with the present table") == 1
    assert_the_table_is_the_owners(broker, owner)


def test_what_was_made_again_while_shards_were_given_back_is_counted_from_its_beginning():
    broker = broker_with_importance()

    async def live() -> AgentWorker:
        worker = await start(broker)
        await count(broker, worker)
        await worker.release()
        assert worker.ownership is not None
        await worker.ownership.begin_again(TOPICS.importance, "another")
        await adopt(worker, {0, 1})
        assert worker.own_offsets() == {0: 0, 1: 0}
        return worker

    asyncio.run(live())


def test_a_shard_that_was_loaded_again_counts_what_came_meanwhile_though_nothing_comes_later():
    broker = broker_with_importance()

    async def live() -> AgentWorker:
        worker = await start(broker)
        await count(broker, worker, until=3)
        assert worker.ownership is not None
        worker.ownership.suspend(0, FencedError("another process writes to it"))
        await count(broker, worker)  # shard 0's records are dropped
        assert worker.own_offsets() == {1: STEPS}
        await check(worker)
        assert worker.own_offsets() == {0: STEPS, 1: STEPS}
        await worker.release()  # with all that is under way
        await adopt(worker, {0, 1})
        return worker

    owner = asyncio.run(live())
    assert_the_table_is_the_owners(broker, owner)


@pytest.mark.parametrize("is_stopped", [False, True])
def test_importance_that_was_made_again_behind_the_table_of_the_log_ends_with_the_owners_table(is_stopped):
    broker = broker_with_importance()

    async def live() -> AgentWorker:
        worker = await start(broker, RARELY)
        await count(broker, worker)
        if is_stopped:
            await worker.stop()
        make_again(broker, TOPICS.importance)
        with RecordProducer(broker) as producer:
            for step in range(3):
                for shard in range(SHARDS):
                    producer.send(TOPICS.importance, shard, *encode_importance(importance_of(STEPS + step, shard)))
        again = await start(broker, RARELY)
        await count(broker, again)
        await check(again)
        return again

    owner = asyncio.run(live())
    assert_the_table_is_the_owners(broker, owner)


def test_without_an_assignment_nothing_is_counted():
    broker = broker_with_importance()

    async def live() -> None:
        worker = await start(broker)
        await worker.release()  # Faust calls nothing more for an empty assignment
        for record in broker.records(TOPICS.importance, 0):
            await worker.count_importance(record)
        assert not written(broker, 0)

    asyncio.run(live())


@pytest.mark.parametrize("generation", [0, 10**6])
@pytest.mark.parametrize(("epoch", "seq"), [(1, 10**15), (99, 5), (99, 10**15)])
def test_a_forged_version_does_not_silence_the_owner(epoch, seq, generation, caplog):
    broker = broker_with_importance()
    forged = Assignment(
        key=RULE[0][0].table.items()[0][0].item(),
        tier="cold",
        shard=0,
        epoch=epoch,
        seq=seq,
        generation=generation,
    )

    async def whole() -> AgentWorker:
        worker = await start(broker)
        await count(broker, worker, until=6)
        await worker.stop()
        with RecordProducer(broker) as producer:
            key, value, headers = encode_assignment(forged, RULE[0][0].fields)
            producer.send(TOPICS.assignments, 0, value, headers, key=key)
        worker = await start(broker)
        await count(broker, worker)
        await check(worker)
        return worker

    worker = asyncio.run(whole())
    assert ("shard 0: got version" in caplog.text) == (generation > 0)
    assert worker.shards[0].epoch == (epoch + 1 if generation else 1)
    assert_the_table_is_the_owners(broker, worker)


def test_garbage_over_a_hot_feature_is_repaired():
    broker = broker_with_importance()

    async def live() -> AgentWorker:
        worker = await start(broker)
        await count(broker, worker)
        with RecordProducer(broker) as producer:
            for key in worker.shards[1].table.items()[0][:3].tolist():
                producer.send(TOPICS.assignments, 1, b"garbage", [], key=key.to_bytes(8, "big"))
            producer.send(TOPICS.assignments, 1, b"garbage", [], key=b"no key")
        await check(worker)
        return worker

    worker = asyncio.run(live())
    assert_the_table_is_the_owners(broker, worker)
    restated = [
        known
        for record in broker.records(TOPICS.assignments, 1)
        if isinstance(known := decode_assignment(record.key, record.value, record.headers), Assignment)
        and known.is_restated
    ]
    assert len(restated) == 3


def test_an_agent_that_starts_writes_the_whole_table_to_assignments_that_were_made_again():
    broker = broker_with_importance()

    async def live() -> AgentWorker:
        worker = await start(broker)
        await count(broker, worker)
        await worker.stop()
        make_again(broker, TOPICS.assignments)
        worker = await start(broker)
        await check(worker)
        return worker

    worker = asyncio.run(live())
    assert_the_table_is_the_owners(broker, worker)
    assert sum(shard.table.num_hot for shard in worker.shards.values()) > 0


def test_damaged_snapshots_are_written_again():
    broker = broker_with_importance()

    async def live() -> None:
        worker = await start(broker)
        await count(broker, worker, until=6)
        with RecordProducer(broker) as producer:
            for record in broker.records(TOPICS.snapshots, 0):
                producer.send(TOPICS.snapshots, 0, b"garbage", [], key=record.key)
        await check(worker)
        await count(broker, worker)
        await worker.release()
        again = await start(broker)
        assert again.own_offsets()[0] == STEPS
        assert again.shards[0].epoch == 1

    asyncio.run(live())


def send_one_step_more(broker: InMemoryBroker) -> None:
    with RecordProducer(broker) as producer:
        for shard in range(SHARDS):
            producer.send(TOPICS.importance, shard, *encode_importance(importance_of(STEPS, shard)))


@pytest.mark.parametrize("is_running", [True, False])
def test_importance_that_was_made_again_is_counted_into_the_present_hot_set(is_running, caplog):
    broker = broker_with_importance()

    async def live() -> AgentWorker:
        worker = await start(broker)
        await count(broker, worker)
        if not is_running:
            await worker.stop()
        make_again(broker, TOPICS.importance)
        send_one_step_more(broker)
        if is_running:
            await notice(worker, lambda: "; the agent goes on" in caplog.text)
        else:
            worker = await start(broker)
        await check(worker)
        await count(broker, worker, until=10**9)
        assert [shard.num_counted for shard in worker.shards.values()] == [STEPS + 1] * SHARDS
        return worker

    assert_the_table_is_the_owners(broker, asyncio.run(live()))
    assert "importance was deleted and made again" in caplog.text


@pytest.mark.parametrize("name", ["assignments", "snapshots", "control"])
def test_a_running_agent_writes_again_what_a_topic_had_that_was_made_again(name, caplog):
    broker = broker_with_importance()
    topic = getattr(TOPICS, name)

    async def live() -> AgentWorker:
        worker = await start(broker)
        await count(broker, worker)
        make_again(broker, topic)
        await notice(worker, lambda: "; the agent goes on" in caplog.text)
        send_one_step_more(broker)
        await count(broker, worker, until=10**9)
        await check(worker)
        assert broker.records(topic)
        return worker

    assert_the_table_is_the_owners(broker, asyncio.run(live()))


def test_a_topic_that_is_deleted_or_gets_partitions_ends_the_agent():
    broker = broker_with_importance()

    async def live(change: Callable[[], None]) -> None:
        worker = await start(broker)
        change()
        await notice(worker, lambda: False)

    with pytest.raises(TopicError, match=r"sketch-snapshots has 5 partitions.* must not change"):
        asyncio.run(live(lambda: broker.add_partitions(TOPICS.snapshots, 5)))
    broker = broker_with_importance()
    with pytest.raises(TopicError, match=r"importance .* was deleted; run `hotstream topics create`"):
        asyncio.run(live(lambda: broker.delete_topic(TOPICS.importance)))


def test_offsets_of_clicks_that_were_made_again_are_not_those_of_the_old_ones():
    shard = Shard(0, GRADIENT.shards)

    def take(offset: int, topic_id: str | None, topic: str = TOPICS.clicks) -> bool:
        batch = importance_of(0, 0)
        source = replace(batch.source, offset=offset, topic_id=topic_id, topic=topic)
        before = shard.num_counted
        shard.count(shard.next_offset, replace(batch, source=source))
        return shard.num_counted > before

    assert [take(offset, None) for offset in (0, 1, 1, 5)] == [True, True, False, True]
    assert [take(offset, "a" * 32) for offset in (5, 6, 6)] == [False, True, False]  # the writer was upgraded
    assert [take(offset, "b" * 32) for offset in (0, 1, 1)] == [True, True, False]
    assert [take(offset, None, "others") for offset in (3, 3, 4)] == [True, False, True]  # known by its name
    assert [take(offset, "c" * 32, "others") for offset in (4, 5)] == [False, True]
    again = Shard.from_bytes(shard.to_bytes(), GRADIENT.shards)
    assert again.marks == shard.marks


STEP = st.one_of(
    st.tuples(st.just("adopt"), st.integers(0, 1)),
    st.tuples(st.just("count"), st.integers(0, 1), st.integers(1, STEPS)),
    st.tuples(st.just("check"), st.integers(0, 1)),
    st.tuples(st.just("release"), st.integers(0, 1)),
    st.tuples(st.just("compact")),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(STEP, max_size=12), st.sampled_from([PATIENT, HASTY]))
def test_whatever_two_processes_do_in_turn_the_last_owner_leaves_a_log_that_is_right(steps, config):
    broker = broker_with_importance()

    async def live() -> AgentWorker:
        workers = [await start(broker, config) for _ in range(2)]
        for name, *arguments in steps:
            worker = workers[arguments[0]] if arguments else None
            if name == "compact":
                broker.compact(TOPICS.assignments)
            elif name == "adopt":
                await adopt(worker, {0, 1})
            elif name == "count":
                await count(broker, worker, until=arguments[1])
            elif name == "check":
                await worker.check()
            else:
                await worker.release()
        await adopt(workers[0], {0, 1})
        for _ in range(3):
            await check(workers[0])
            await count(broker, workers[0])
        return workers[0]

    owner = asyncio.run(live())
    assert_the_table_is_the_owners(broker, owner)
    assert [(shard.epoch, shard.seq) for shard in owner.shards.values()] == [(1, shard.seq) for shard in RULE[0]]
    assert [shard.table.digest for shard in owner.shards.values()] == [shard.table.digest for shard in RULE[0]]
