"""`Publisher`: order within a partition, reported failures, and sending again after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.errors import UnknownTopicOrPartitionError

from streams.clients import publisher as publisher_module
from streams.clients.in_memory import CrashError, InMemoryBroker
from streams.clients.publisher import Publisher

NUM_RECORDS = 12


def publish(broker: InMemoryBroker, use: Callable[[Publisher], Awaitable[None]]) -> None:
    """Runs `use` with a publisher that is started before and stopped afterwards, unless `use` fails."""

    async def run() -> None:
        publisher = Publisher(broker)
        await publisher.start()
        await use(publisher)
        await publisher.stop()

    asyncio.run(run())


def values(broker: InMemoryBroker, partition: int = 0) -> list[int]:
    return [int(record.value or b"") for record in broker.records("t", partition)]


def items(*numbers: int) -> list[tuple[bytes | None, bytes, list[tuple[str, bytes]]]]:
    return [(None, b"%d" % number, []) for number in numbers]


def test_partitions_are_independent_and_each_keeps_its_order():
    broker = InMemoryBroker({"t": 3}, max_batch_records=2)

    async def use(publisher: Publisher) -> None:
        for number in range(30):
            await publisher.send("t", number % 3, items(number), timestamp_ms=number)

    publish(broker, use)
    assert [values(broker, partition) for partition in range(3)] == [list(range(n, 30, 3)) for n in range(3)]


def test_flush_returns_when_what_was_sent_before_is_stored():
    broker = InMemoryBroker({"t": 1}, max_batch_records=2)

    async def use(publisher: Publisher) -> None:
        await publisher.send("t", 0, items(0, 1, 2, 3, 4), timestamp_ms=0)
        assert values(broker) == []
        await publisher.flush()
        assert values(broker) == [0, 1, 2, 3, 4]

    publish(broker, use)


def test_a_burst_longer_than_a_batch_keeps_its_order_and_an_empty_one_sends_nothing():
    broker = InMemoryBroker({"t": 1}, max_batch_records=4)

    async def use(publisher: Publisher) -> None:
        for burst in ([], range(3), range(3, 17), [], range(17, 18)):
            await publisher.send("t", 0, items(*burst), timestamp_ms=0)
        await publisher.flush()
        await publisher.send("t", 0, [], timestamp_ms=0)
        await publisher.flush()

    publish(broker, use)
    assert values(broker) == list(range(18))
    assert broker.crash_points == [0, 4, 8, 12, 16]  # bursts share batches


def test_a_full_queue_makes_the_sender_wait_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr(publisher_module, "_MAX_WAITING", 4)
    broker = InMemoryBroker({"t": 1}, max_batch_records=2)
    most_waiting = 0

    async def use(publisher: Publisher) -> None:
        nonlocal most_waiting
        for number in range(40):
            await publisher.send("t", 0, items(number), timestamp_ms=0)
            most_waiting = max(most_waiting, number + 1 - len(values(broker)))

    publish(broker, use)
    assert values(broker) == list(range(40))
    assert 4 <= most_waiting <= 4 + 2  # what waits, and the batch under way


def test_a_failure_is_raised_by_every_later_call_for_that_partition():
    broker = InMemoryBroker({"t": 1})
    broker.fail_after(0)

    async def use(publisher: Publisher) -> None:
        await publisher.send("t", 0, items(0), timestamp_ms=0)
        for _ in range(2):
            with pytest.raises(CrashError):
                await publisher.flush()
        with pytest.raises(CrashError):
            await publisher.send("t", 0, items(1), timestamp_ms=0)
        with pytest.raises(CrashError):
            await publisher.stop()

    async def run() -> None:
        publisher = Publisher(broker)
        await publisher.start()
        await use(publisher)

    asyncio.run(run())
    assert values(broker) == []


def test_a_sender_that_waits_for_room_learns_of_the_failure(monkeypatch):
    monkeypatch.setattr(publisher_module, "_MAX_WAITING", 1)
    broker = InMemoryBroker({"t": 1}, max_batch_records=1)
    broker.fail_after(1)

    async def use(publisher: Publisher) -> None:
        for number in range(5):
            await publisher.send("t", 0, items(number), timestamp_ms=0)

    with pytest.raises(CrashError):
        publish(broker, use)
    assert values(broker) == [0]


def send_from(broker: InMemoryBroker, start: int, flush_every: int, flushed: list[int]) -> None:
    """Sends the records from `start` on; the last element of `flushed` is the index to restart from."""

    async def use(publisher: Publisher) -> None:
        for number in range(start, NUM_RECORDS):
            await publisher.send("t", 0, items(number), timestamp_ms=0)
            if number % flush_every == flush_every - 1:
                await publisher.flush()
                flushed.append(number + 1)

    publish(broker, use)


@settings(max_examples=150)
@given(
    faults=st.lists(
        st.tuples(st.sampled_from(["record", "acknowledgement", "twice"]), st.integers(0, NUM_RECORDS)), max_size=4
    ),
    batch=st.integers(1, 5),
    flush_every=st.integers(1, 5),
)
def test_what_is_sent_again_from_the_last_flush_makes_the_log_whole(faults, batch, flush_every):
    """First copies are in order and complete; no run leaves a gap, wherever it ends."""
    broker, flushed = InMemoryBroker({"t": 1}, max_batch_records=batch), [0]
    for kind, point in faults:
        if kind == "twice":
            broker.store_twice_after(point)
        else:
            broker.fail_after(point, lose=kind)
        try:
            send_from(broker, flushed[-1], flush_every, flushed)
        except CrashError:
            stored = set(values(broker))
            assert stored == set(range(len(stored)))
            assert flushed[-1] <= len(stored)
    broker.cancel_fault()
    send_from(broker, flushed[-1], flush_every, flushed)
    assert list(dict.fromkeys(values(broker))) == list(range(NUM_RECORDS))


# ---- a broker that is away ------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    lose=st.sampled_from(["record", "acknowledgement"]),
    point=st.integers(0, NUM_RECORDS - 1),
    times=st.integers(1, 4),
    batch=st.integers(1, 5),
)
def test_a_batch_that_lost_its_connection_is_sent_again_until_it_is_acknowledged(lose, point, times, batch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publisher_module, "_RETRY_S", 0)
        broker = InMemoryBroker({"t": 1}, max_batch_records=batch)
        broker.fail_after(point, lose=lose, times=times)
        send_from(broker, 0, NUM_RECORDS, [0])
    assert not broker.is_fault_due
    assert list(dict.fromkeys(values(broker))) == list(range(NUM_RECORDS))
    assert (len(values(broker)) > NUM_RECORDS) == (lose == "acknowledgement")


def test_records_that_wait_for_the_broker_are_bounded(monkeypatch):
    monkeypatch.setattr(publisher_module, "_MAX_WAITING", 4)
    monkeypatch.setattr(publisher_module, "_RETRY_S", 0)
    broker = InMemoryBroker({"t": 1}, max_batch_records=1)
    broker.fail_after(0, times=1_000_000)
    put = 0

    async def use(publisher: Publisher) -> None:
        nonlocal put
        sending = asyncio.get_running_loop().create_task(send_all(publisher))
        while len(broker.crash_points) < 50:
            await asyncio.sleep(0)
        assert 4 <= put <= 4 + 1  # those that wait, and the one under way
        broker.cancel_fault()
        await sending

    async def send_all(publisher: Publisher) -> None:
        nonlocal put
        for number in range(NUM_RECORDS):
            await publisher.send("t", 0, items(number), timestamp_ms=0)
            put += 1

    publish(broker, use)
    assert values(broker) == list(range(NUM_RECORDS))


@pytest.mark.parametrize("patience_s", [0.0, 3600.0])
def test_an_unknown_topic_is_a_failure_only_after_a_time(monkeypatch, patience_s):
    monkeypatch.setattr(publisher_module, "_RETRY_S", 0)
    monkeypatch.setattr(publisher_module, "_UNKNOWN_S", patience_s)
    broker = InMemoryBroker({"t": 1})

    async def use(publisher: Publisher) -> None:
        await publisher.send("new", 0, items(0), timestamp_ms=0)
        for _ in range(20):
            await asyncio.sleep(0)
        broker.add_topic("new", 1)
        await publisher.flush()

    if patience_s:
        publish(broker, use)
        assert len(broker.records("new")) == 1
    else:
        with pytest.raises(UnknownTopicOrPartitionError):
            publish(broker, use)
