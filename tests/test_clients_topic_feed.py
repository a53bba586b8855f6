"""`TopicFeed`: the order of its records, and restarts from its offsets."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.clients.topic_feed import TopicFeed
from streams.clients.worker import Worker
from streams.errors import BrokerError

PARTITIONS = 2


def broker_with(*partitions: int, **options: Any) -> InMemoryBroker:
    """A broker whose topic has so many records in each partition, the n-th of all of them with timestamp n."""
    times = iter(range(1000))
    broker = InMemoryBroker({"t": PARTITIONS}, clock_ms=lambda: next(times), **options)
    with RecordProducer(broker) as producer:
        for partition, count in enumerate(partitions):
            for number in range(count):
                producer.send("t", partition, b"%d" % number, [], key=b"%d" % (number % 3))
    return broker


@contextmanager
def feeding(
    broker: InMemoryBroker, offsets: Mapping[int, int] | None = None, max_records: int = 100
) -> Iterator[TopicFeed]:
    with (
        Worker("decoder") as decoder,
        TopicFeed(
            broker,
            "t",
            PARTITIONS,
            offsets=offsets or {},
            max_records=max_records,
            decode=lambda record: int(record.value),
            worker=decoder,
        ) as feed,
    ):
        yield feed


def address_of(taken: Any) -> tuple[int, int]:
    return taken.record.partition, taken.record.offset


def test_records_are_taken_oldest_first_over_all_partitions_and_come_decoded():
    with feeding(broker_with(2, 3)) as feed:
        assert feed.oldest() is None
        assert feed.fetch() == 5
        taken = []
        while (partition := feed.oldest()) is not None:
            taken.append(feed.take(partition))
        assert [item.record.timestamp for item in taken] == [0, 1, 2, 3, 4]
        assert [item.decoded for item in taken] == [0, 1, 0, 1, 2]
        assert feed.offsets == {0: 2, 1: 3}


def test_no_more_records_are_held_than_there_is_room_for_or_were_asked_for():
    with feeding(broker_with(10), max_records=4) as feed:
        assert feed.fetch(limit=1) == 1
        assert feed.fetch() == 3
        assert feed.fetch() == 0
        assert feed.num_waiting == 4
        assert len(feed.take_all(limit=3)) == 3
        assert feed.fetch() == 3
        assert feed.offsets[0] == 3
        assert feed.lag() == 7


@pytest.mark.parametrize("lists_last_batch", [False, True])
def test_the_lag_counts_what_came_since_the_last_fetch(lists_last_batch):
    broker = broker_with(3, lists_last_batch=lists_last_batch)
    with feeding(broker, max_records=3) as feed:
        feed.fetch()
        with RecordProducer(broker) as producer:
            for _ in range(5):
                producer.send("t", 0, b"7", [])
        assert feed.fetch() == 0  # there is no room
        assert feed.lag() >= 7  # the embedded broker lists the first record of its last batch
        assert lists_last_batch or feed.lag() == 8


def test_the_end_of_a_transaction_is_no_record_that_waits():
    broker = broker_with(0)
    producer = broker.open_producer(transactional_id="replay")
    producer.init_transactions()
    with feeding(broker) as feed:
        for number in range(2):
            producer.begin_transaction()
            producer.send("t", b"7", partition=0)
            producer.commit_transaction()
            assert feed.fetch() == 1
            assert feed.lag() == 2  # a record, and the end of its transaction
            feed.take_all(limit=1)
            assert feed.offsets[0] == 2 * number + 1
            assert feed.fetch() == 0
            assert feed.lag() == 0


@pytest.mark.parametrize("lists_last_batch", [False, True])
def test_a_feed_is_at_the_end_when_all_is_taken_and_not_before(lists_last_batch):
    broker = broker_with(3, 1, lists_last_batch=lists_last_batch)
    with feeding(broker) as feed:
        feed.fetch()
        assert not feed.is_at_end()
        feed.take_all(limit=10)
        assert feed.is_at_end()
        with RecordProducer(broker) as producer:
            producer.send("t", 1, b"7", [])
            producer.send("t", 1, b"8", [])
        assert not feed.is_at_end()
        feed.fetch()
        assert [item.decoded for item in feed.take_all(limit=10)] == [7, 8]
        assert feed.is_at_end()


def test_reading_begins_at_the_given_offsets_and_at_the_oldest_record_elsewhere():
    broker = broker_with(5, 5)
    broker.delete_before("t", 1, 2)
    with feeding(broker, {0: 3}) as feed:
        assert feed.offsets == {0: 3, 1: 2}
        feed.fetch()
        assert {address_of(item) for item in feed.take_all(limit=10)} == {(0, 3), (0, 4), (1, 2), (1, 3), (1, 4)}


def test_records_that_retention_took_are_reported_and_reading_goes_on_behind_them(caplog):
    broker = broker_with(5)
    broker.delete_before("t", 0, 4)
    with caplog.at_level(logging.WARNING), feeding(broker, {0: 1}) as feed:
        assert feed.offsets[0] == 4
    assert "t[0]: 3 records were deleted before they were read" in caplog.text


@pytest.mark.parametrize("held", [0, 2])
def test_retention_that_overtakes_a_reader_is_reported_and_reading_goes_on_behind_it(caplog, held):
    broker = broker_with(9)
    with caplog.at_level(logging.WARNING), feeding(broker, max_records=3) as feed:
        feed.fetch()
        feed.take_all(limit=3 - held)
        broker.delete_before("t", 0, 7)
        assert feed.fetch(limit=1) == 0
        assert feed.offsets[0] == (1 if held else 7)
        assert [address_of(item) for item in feed.take_all(limit=held)] == [(0, offset) for offset in (1, 2)[:held]]
        feed.fetch()
        assert [address_of(item) for item in feed.take_all(limit=9)] == [(0, 7), (0, 8)]
    assert "t[0]: 4 records were deleted before they were read" in caplog.text


def test_a_topic_made_again_under_a_reader_is_noticed_when_its_end_is_before_the_reader():
    broker = broker_with(9)
    with feeding(broker) as feed:
        feed.fetch()
        feed.take_all(limit=9)
        del broker.topics["t"]
        broker.add_topic("t", PARTITIONS)
        with pytest.raises(BrokerError, match=r"t\[0\] ends before offset 9.*the topic was made again"):
            feed.fetch()


def test_an_offset_beyond_the_topic_is_refused_with_advice():
    with pytest.raises(BrokerError, match=r"t\[0\] ends before offset 9(?s:.*)--fresh"), feeding(broker_with(), {0: 9}):
        pass
    with feeding(broker_with(5), {0: 9}) as feed, pytest.raises(BrokerError, match=r"t\[0\] ends before offset 9"):
        feed.fetch()


def test_a_failed_broker_raises_a_broker_error():
    broker = broker_with(5)
    with feeding(broker) as feed:
        broker.fail_now()
        with pytest.raises(BrokerError, match="reading t failed"):
            feed.fetch()
        with pytest.raises(BrokerError, match="t:"):
            feed.is_at_end()


def test_take_until_gives_exactly_the_records_before_the_ends_however_few_may_be_held():
    with feeding(broker_with(9, 9), max_records=2) as feed:
        taken = feed.take_until({0: 7, 1: 2})
        assert [address_of(item) for item in taken] == [*((0, n) for n in range(7)), (1, 0), (1, 1)]
        assert feed.offsets == {0: 7, 1: 2}
        assert feed.take_until({0: 7}) == []


def test_take_until_passes_over_what_compaction_took():
    broker = broker_with(9)
    broker.compact("t")  # offsets 6, 7 and 8 are left
    with feeding(broker) as feed:
        assert feed.take_until({0: 5}) == []
        assert feed.offsets[0] == 5
        assert [address_of(item) for item in feed.take_until({0: 8})] == [(0, 6), (0, 7)]


def test_an_error_of_the_decoder_is_raised_where_records_are_fetched():
    broker = broker_with(1)
    with RecordProducer(broker) as producer:
        producer.send("t", 0, b"no number", [])

    def fetch_until_it_fails() -> None:
        with feeding(broker) as feed:
            for _ in range(2):
                feed.fetch()
                feed.take_all(limit=10)

    with pytest.raises(ValueError, match="no number"):
        fetch_until_it_fails()


@given(
    counts=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    max_records=st.integers(1, 6),
    lives=st.lists(st.integers(0, 8), max_size=6),
    is_compacted=st.booleans(),
)
def test_a_run_that_is_killed_at_any_records_takes_each_once(counts, max_records, lives, is_compacted):
    """Each run takes some records and saves its offsets; the last run takes the rest."""
    broker = broker_with(*counts)
    if is_compacted:
        broker.compact("t")
    taken: list[tuple[int, int]] = []
    offsets: dict[int, int] = {}
    for life in [*lives, 1000]:
        with feeding(broker, offsets, max_records) as feed:
            for _ in range(life):
                if feed.num_waiting == 0 and feed.fetch() == 0 and feed.is_at_end():
                    break
                partition = feed.oldest()
                if partition is not None:
                    taken.append(address_of(feed.take(partition)))
            offsets = dict(feed.offsets)
    for number in range(PARTITIONS):
        stored = [record.offset for record in broker.records("t", number)]
        assert [offset for partition, offset in taken if partition == number] == stored
