"""A subscriber whose topic is deleted, made again or extended ends with an error that has the reason."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from streams import HotFeatureTable, subscribe
from streams.assignments.columns import Record
from streams.assignments.reader import AssignmentReader
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.clients.topic_reader import TopicReader
from streams.errors import BrokerError, TopicError
from streams.keys import CRITEO_FIELDS
from streams.records import Assignment, encode_assignment
from streams.topics import Topics

TOPICS, KEY = Topics(), (1 << 56) + 7


def make_broker() -> InMemoryBroker:
    broker = InMemoryBroker({spec.name: spec.partitions for spec in TOPICS.specs(shards=1)})
    for seq in range(1, 4):
        send(broker, seq)
    return broker


def send(broker: InMemoryBroker, seq: int) -> None:
    hot = Assignment(
        key=KEY, tier="hot", shard=0, epoch=1, seq=seq, row=seq, score=3.0, source=(0, 0), event_time_ms=0
    )  # fmt: skip
    key, value, headers = encode_assignment(hot, CRITEO_FIELDS)
    with RecordProducer(broker) as producer:
        producer.send(TOPICS.assignments, 0, value, headers, key=key)


def make_again(broker: InMemoryBroker) -> None:
    broker.delete_topic(TOPICS.assignments)
    broker.add_topic(TOPICS.assignments, 1)
    send(broker, 1)


def delete(broker: InMemoryBroker) -> None:
    broker.delete_topic(TOPICS.assignments)


def extend(broker: InMemoryBroker) -> None:
    broker.add_partitions(TOPICS.assignments, 2)


def refresh_for_ten_seconds(table: HotFeatureTable) -> None:
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        table.refresh()


CHANGES = pytest.mark.parametrize(
    ("change", "message"),
    [
        (make_again, r"was deleted and made again .*start again, which reads the present one"),
        (delete, r"assignments \(id \w{32}\) was deleted"),
        (extend, r"has 2 partitions, it had 1"),
    ],
)


@CHANGES
def test_a_table_ends_within_ten_seconds_and_stays_ended(
    change: Callable[[InMemoryBroker], None], message: str
) -> None:
    broker = make_broker()
    with HotFeatureTable(broker) as table:
        change(broker)
        started_s = time.monotonic()
        with pytest.raises(TopicError, match=message):
            refresh_for_ten_seconds(table)
        assert time.monotonic() - started_s < 30, "far from the minute for which a broker is waited for"
        with pytest.raises(TopicError, match=message):
            table.refresh()
        assert table.lookup([KEY]).tolist() == [3], "the table stays readable"


@CHANGES
def test_a_subscription_ends_within_ten_seconds(change: Callable[[InMemoryBroker], None], message: str) -> None:
    broker = make_broker()
    deadline_s = time.monotonic() + 10
    changes = subscribe(broker, should_stop=lambda: time.monotonic() > deadline_s)
    assert [next(changes).seq for _ in range(3)] == [1, 2, 3]
    change(broker)
    with pytest.raises(TopicError, match=message):
        list(changes)


def test_a_new_reader_follows_the_topic_that_was_made_again() -> None:
    broker = make_broker()
    make_again(broker)
    with HotFeatureTable(broker) as table:
        assert table.lookup([KEY]).tolist() == [1]


def test_reading_a_large_table_may_take_longer_than_the_wait_for_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TopicReader.__init__, "__kwdefaults__", {"max_poll_records": 1})
    now_s = 100.0

    class Slow(AssignmentReader):
        def poll(self, timeout_ms: int = 100) -> list[tuple[Record, Any]]:
            nonlocal now_s
            now_s += 0.6
            return super().poll(timeout_ms)

    with Slow(make_broker()) as reader:
        monkeypatch.setattr("streams.assignments.reader.time.monotonic", lambda: now_s)
        reader.catch_up(timeout_s=1.0)  # three records, 1.8 s
        assert reader.table.lookup([KEY]).tolist() == [3]
        with pytest.raises(BrokerError, match=r"assignments: no record for 1 s, expected 7 more"):
            reader.catch_up(timeout_s=1.0, until={0: 10})
