"""`RecordProducer`: records wait for a broker that does not answer, in order, until the process is asked to stop."""

from __future__ import annotations

import itertools

import pytest

from streams.clients import producer as producer_module
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.errors import BrokerError, TopicError
from streams.telemetry.broker_waits import BrokerWaits


@pytest.mark.parametrize("lose", ["record", "acknowledgement"])
@pytest.mark.parametrize("point", range(4))
def test_a_record_that_lost_its_connection_is_stored_once(lose, point):
    broker = InMemoryBroker({"t": 1})
    broker.fail_after(point, lose=lose, times=3)
    with RecordProducer(broker, max_in_flight=1) as producer:
        for number in range(4):
            producer.send("t", 0, b"%d" % number, [])
    assert [record.value for record in broker.records("t")] == [b"0", b"1", b"2", b"3"]


def test_a_process_that_is_asked_to_stop_ends_its_wait_with_the_number_of_records():
    broker, seconds = InMemoryBroker({"t": 1}), itertools.count(1e9)
    broker.waits = BrokerWaits("kafka:9092", should_stop=lambda: True, clock_s=lambda: next(seconds))
    broker.fail_after(0, times=1_000_000)
    producer = RecordProducer(broker)
    producer.send("t", 0, b"one", [])
    with pytest.raises(BrokerError, match=r"stopped while the broker at kafka:9092 does not .* 1 records wait"):
        producer.wait()
    assert broker.records("t") == []


def test_a_topic_that_is_deleted_while_records_wait_is_named(monkeypatch):
    monkeypatch.setattr(producer_module, "_UNKNOWN_S", 0.0)
    broker = InMemoryBroker({"t": 1})
    broker.fail_after(0, times=3)
    producer = RecordProducer(broker)
    producer.send("t", 0, b"one", [])
    del broker.topics["t"]
    with pytest.raises(TopicError, match=r"'t' is missing .*: it was deleted"):
        producer.wait()
