"""`BrokerWaits`: a line every few seconds while a broker is away, nothing unknown is hidden, and patience that ends."""

from __future__ import annotations

import logging
import re

import pytest

from streams.errors import BrokerError
from streams.telemetry.broker_waits import BrokerWaits


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def waits(clock: Clock) -> BrokerWaits:
    return BrokerWaits("kafka:9092", clock_s=clock)


def report(waits: BrokerWaits, name: str, message: str, *args: object, error: Exception | None = None) -> bool:
    exc_info = None if error is None else (type(error), error, None)
    return waits.filter(logging.LogRecord(name, logging.ERROR, "", 0, message, args, exc_info))


CHATTER = [
    ("kafka.net.connection", "%s: Connection lost: %s", ("<KafkaConnection>", "KafkaConnectionError: 104 ECONNRESET")),
    ("kafka.net.manager", "Connection failed: %s", ("[Errno 111] Connection refused",)),
    ("kafka.cluster", "Metadata refresh: failed %s", ("KafkaConnectionError: 104",)),
    ("aiokafka", "Unable connect to node with id %s: %s", (1, "Connect call failed")),
    ("aiokafka.consumer.fetcher", "Failed fetch messages from %s: %s", (1, "[Error 7] RequestTimedOutError")),
    ("aiokafka.consumer.group_coordinator", "Heartbeat session expired - marking coordinator dead", ()),
    ("aiokafka.producer.sender", "Got error produce response: %s", ("[Error 7] RequestTimedOutError",)),
]


def test_a_broker_that_is_away_is_one_line_every_five_seconds_and_one_when_it_is_back(waits, clock, caplog):
    for _ in range(23 * 8):
        clock.now_s += 0.125
        for name, message, args in CHATTER:
            assert not report(waits, name, message, *args)
        waits.note_wait(waits, 1000.0, 7)
    waits.note_answer()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 5
    assert [re.sub(r"\d\d:\d\d:\d\d", "TIME", line) for line in lines[:4]] == [
        f"the broker at kafka:9092 does not answer since TIME ({seconds} s); 7 records wait to be sent; left out "
        f"{number} messages about connections (hotstream -v shows them)"
        for seconds, number in ((5, 274), (10, 280), (15, 280), (20, 280))
    ]
    assert lines[4] == "the broker at kafka:9092 answers again, after 23 s"


def test_a_connection_that_is_made_again_at_once_is_no_line(waits, clock, caplog):
    for _ in range(100):
        clock.now_s += 1
        assert not report(waits, *CHATTER[0][:2], *CHATTER[0][2])
        waits.note_answer()
    assert caplog.records == []


def test_records_of_all_clients_are_added_up(waits, clock):
    waits.note_wait("one", 1000.0, 3)
    waits.note_wait("two", 1000.0, 4)
    assert "7 records wait" in waits.describe()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kafka.net.connection", "Connection lost: SaslAuthenticationFailedError: wrong password"),
        ("aiokafka", "Unable connect to node with id 1: [SSL: CERTIFICATE_VERIFY_FAILED]"),
        ("aiokafka.consumer.group_coordinator", "Group Coordinator Request failed: GroupAuthorizationFailedError"),
        ("kafka.consumer.fetcher", "Unexpected error while fetching data"),
        ("faust.app", "Crashed reason=ValueError()"),
        ("streams.agent", "Connection lost"),
    ],
)
def test_what_waiting_does_not_mend_is_logged(waits, name, message):
    assert report(waits, name, message)
    assert not waits.is_suspected


def test_a_traceback_of_a_lost_connection_is_left_out_and_any_other_is_logged(waits):
    assert not report(waits, "kafka.net.transport", "while sending", error=ConnectionResetError(104, "reset by peer"))
    closed = RuntimeError("NetworkSelector closed!")  # a connection fails while its client closes
    assert not report(waits, "kafka.future", "Error processing errback", error=closed)
    assert report(waits, "kafka.net.transport", "while sending", error=ValueError("x"))


def test_patience_ends_when_the_process_is_asked_to_stop_and_nothing_answers(clock):
    asked: list[bool] = []
    waits = BrokerWaits("kafka:9092", should_stop=lambda: bool(asked), grace_s=4.0, clock_s=clock)
    waits.note_wait("one", 1000.0, 3)
    clock.now_s += 3600
    waits.check()
    asked.append(True)
    waits.check()
    clock.now_s += 3.9
    waits.check()
    clock.now_s += 0.2
    with pytest.raises(
        BrokerError, match=r"stopped while the broker at kafka:9092 does not answer since .*; 3 records"
    ):
        waits.check()
    waits.note_answer()
    waits.check()


def test_a_broker_that_answers_is_waited_for_after_the_stop(clock):
    waits = BrokerWaits("kafka:9092", should_stop=lambda: True, grace_s=4.0, clock_s=clock)
    for _ in range(100):
        clock.now_s += 3
        waits.note_wait("one", clock.now_s - 3, 1)
        waits.check()
        waits.note_answer()
