"""Partition logs: their ends, whatever the broker lists, and ranges of offsets."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition

from streams.clients.in_memory import InMemoryBroker
from streams.clients.in_memory_clients import AsyncConsumer
from streams.clients.partition_reader import fetch_partition, is_at_end, open_partition_log
from streams.clients.producer import RecordProducer
from streams.clients.publisher import Publisher
from streams.clients.topic_reader import TopicReader
from streams.errors import BrokerError, TopicError


def broker_with(counts: dict[int, int], **options: Any) -> InMemoryBroker:
    """A broker whose topic has one batch of so many records in each partition."""
    broker = InMemoryBroker({"t": 3}, **options)

    async def fill() -> None:
        publisher = Publisher(broker)
        await publisher.start()
        for partition, count in counts.items():
            items = [(b"%d" % (number % 2), b"%d" % number, []) for number in range(count)]
            await publisher.send("t", partition, items, timestamp_ms=0)
        await publisher.stop()

    asyncio.run(fill())
    return broker


@pytest.mark.parametrize("lists_last_batch", [False, True])
def test_the_end_is_behind_the_last_batch_however_the_broker_lists_it(lists_last_batch):
    broker = broker_with({0: 5, 2: 1}, lists_last_batch=lists_last_batch)
    broker.delete_before("t", 0, 2)
    with open_partition_log(broker) as log:
        assert log.all_bounds("t", 3) == [(2, 5), (0, 0), (0, 1)]
        assert log.bounds("t", 2) == (0, 1)
        with RecordProducer(broker) as producer:
            producer.send("t", 2, b"", [])
        assert log.bounds("t", 2) == (0, 2)


@pytest.mark.parametrize(("start", "end"), [(0, 6), (2, 4), (5, 6), (3, 3), (6, 6)])
def test_a_range_of_offsets_is_read_and_nothing_beyond(start, end):
    with open_partition_log(broker_with({1: 6})) as log:
        assert [record.offset for record in log.read("t", 1, start, end)] == list(range(start, end))


def test_a_range_that_compaction_emptied_ends():
    broker = broker_with({0: 6})
    broker.compact("t")
    with open_partition_log(broker) as log:
        assert [record.offset for record in log.read("t", 0, 0, 6)] == [4, 5]
        assert list(log.read("t", 0, 0, 3)) == []


def test_fetches_hold_the_same_records_in_lists():
    with open_partition_log(broker_with({0: 1200})) as log:
        fetches = list(log.read_fetches("t", 0, 0, 1100))
        assert len(fetches) == 3
        assert [record.offset for records in fetches for record in records] == list(range(1100))


def fetch_all(broker: InMemoryBroker, partition: int, start: int = 0) -> list[int]:
    async def fetch() -> list[int]:
        fetches = fetch_partition(broker, "t", partition, start=start)
        return [record.offset async for records in fetches for record in records]

    return asyncio.run(fetch())


@pytest.mark.parametrize("lists_last_batch", [False, True])
def test_a_coroutine_reads_to_the_end_however_the_broker_lists_it(lists_last_batch):
    broker = broker_with({0: 1200}, lists_last_batch=lists_last_batch)
    assert fetch_all(broker, 0) == list(range(1200))
    assert fetch_all(broker, 0, 1190) == list(range(1190, 1200))
    assert fetch_all(broker, 1) == []
    assert fetch_all(broker, 0, -3)[-3:] == [1197, 1198, 1199]
    assert len(fetch_all(broker, 0, -3)) < 1200
    assert fetch_all(broker, 0, -5000) == list(range(1200))
    assert fetch_all(broker, 1, -3) == []
    broker.delete_before("t", 0, 1195)
    assert fetch_all(broker, 0, 7) == list(range(1195, 1200))
    broker.compact("t")
    assert fetch_all(broker, 0) == [1198, 1199]


@pytest.mark.parametrize("window", [1, 2, 5, 100])
def test_the_newest_record_comes_first(window):
    with open_partition_log(broker_with({0: 9})) as log:
        assert [record.offset for record in log.newest_first("t", 0, window=window)] == list(range(8, -1, -1))


def test_a_topic_is_empty_until_its_first_record():
    for counts, is_empty in (({}, True), ({2: 1}, False), ({0: 3}, False)):
        with open_partition_log(broker_with(counts)) as log:
            assert log.is_empty("t") == is_empty


def test_a_failed_broker_raises_a_broker_error():
    broker = broker_with({0: 1})
    log = ExitStack()
    bounds = log.enter_context(open_partition_log(broker)).bounds
    broker.fail_now()
    with pytest.raises(BrokerError, match="reading failed"), log:
        bounds("t", 0)


@pytest.mark.parametrize("lists_last_batch", [False, True])
def test_a_consumer_is_at_the_end_only_behind_the_last_record(lists_last_batch):
    broker, partition = broker_with({0: 4}, lists_last_batch=lists_last_batch), TopicPartition("t", 0)
    consumer = broker.open_consumer(max_poll_records=2)
    consumer.assign([partition])
    consumer.poll()
    assert not is_at_end(consumer, [partition], broker.waits)
    consumer.poll()
    assert is_at_end(consumer, [partition], broker.waits)


# ---- all partitions of a topic ---------------------------------------------------------------------------------------


def test_a_reader_follows_all_partitions_from_the_oldest_record_on():
    broker = broker_with({0: 2, 2: 1})
    with TopicReader(broker, "t", max_poll_records=2) as reader:
        assert reader.partitions == (0, 1, 2)
        assert reader.known_end(0) is None
        records = [reader.poll(), reader.poll(), reader.poll()]
        assert sum(len(fetched) for by_partition in records for fetched in by_partition.values()) == 3
        assert reader.positions() == {0: 2, 1: 0, 2: 1}
        assert reader.is_at_end()
        with RecordProducer(broker) as producer:
            producer.send("t", 1, b"new", [])
        assert not reader.is_at_end()
        assert [record.value for record in reader.poll()[1]] == [b"new"]
        assert (reader.known_end(1), reader.num_behind) == (1, 0)
        reader.seek({0: 1})
        assert reader.num_behind == 1
        assert [record.offset for record in reader.poll()[0]] == [1]


def test_a_reader_names_a_missing_topic_and_a_broker_that_fails():
    broker = broker_with({})
    with pytest.raises(TopicError, match="'u' is missing"):
        TopicReader(broker, "u")
    with TopicReader(broker, "t") as reader:
        broker.fail_now()
        with pytest.raises(BrokerError, match="reading t failed"):
            reader.poll()


class StoppedConsumer(AsyncConsumer):
    """Its first fetch takes 100 s of the clock, as in a process that SIGSTOP has stopped, and has no record."""

    def __init__(self, broker: InMemoryBroker, clock: list[float]) -> None:
        super().__init__(broker)
        self.clock = clock

    async def getmany(self, *partitions: Any, timeout_ms: int = 0) -> dict[Any, list[Any]]:
        if self.clock[0] == 0.0:
            self.clock[0] = 100.0
            return {}
        return await super().getmany(*partitions, timeout_ms=timeout_ms)


def test_a_process_that_was_stopped_while_it_read_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("streams.clients.partition_reader.time", SimpleNamespace(monotonic=lambda: clock[0]))
    broker = InMemoryBroker({"t": 1})
    monkeypatch.setattr(broker, "create_async_consumer", lambda: StoppedConsumer(broker, clock))
    with RecordProducer(broker) as producer:
        producer.send("t", 0, b"1", [])

    async def read() -> list[bytes]:
        return [record.value async for records in fetch_partition(broker, "t", 0) for record in records]

    assert asyncio.run(read()) == [b"1"]
