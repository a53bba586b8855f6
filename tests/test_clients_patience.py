"""Requests that wait for a broker: which errors of the client libraries may be gone at the next attempt."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import aiokafka.errors
import kafka.errors
import pytest
from aiokafka.consumer.fetcher import Fetcher
from kafka import TopicPartition
from kafka.consumer.subscription_state import SubscriptionState
from silent_connection import find_end

from streams.clients.admin import create_topics, describe_topics, require_partitions
from streams.clients.async_consumers import read_all_async_records
from streams.clients.config import KafkaConfig
from streams.clients.in_memory import InMemoryBroker
from streams.clients.kafka_clients import PromptConsumer
from streams.clients.partition_reader import open_partition_log
from streams.clients.patience import answered, may_pass
from streams.clients.topic_identity import TopicWatch, require_topics
from streams.clients.topic_reader import TopicReader
from streams.errors import BrokerError
from streams.telemetry.broker_waits import BrokerWaits
from streams.topics import Topics

PASSING = (
    aiokafka.errors.KafkaTimeoutError,  # which aiokafka does not call retriable
    aiokafka.errors.KafkaConnectionError,
    aiokafka.errors.NodeNotReadyError,
    aiokafka.errors.RequestTimedOutError,
    kafka.errors.KafkaTimeoutError,
    asyncio.TimeoutError,
)
LASTING = (
    aiokafka.errors.TopicAuthorizationFailedError,
    kafka.errors.TopicAuthorizationFailedError,
    kafka.errors.MessageSizeTooLargeError,
    ValueError,
)


@pytest.mark.parametrize("kind", PASSING)
def test_a_request_that_gets_no_answer_is_made_again(kind, monkeypatch):
    monkeypatch.setattr("streams.clients.patience._RETRY_S", 0.0)
    failures = [kind("no answer in 20000 ms"), kind("no answer in 20000 ms")]

    async def request() -> int:
        if failures:
            raise failures.pop()
        return 7

    assert asyncio.run(answered(request, BrokerWaits("kafka:9092"))) == 7


@pytest.mark.parametrize("kind", LASTING)
def test_a_refusal_is_not_waited_for(kind):
    assert not may_pass(kind("refused"))


class Away:
    """A client of aiokafka whose broker is away, and what a fetcher has beside it."""

    _retry_backoff = 60.0

    def __init__(self) -> None:
        self._client = self

    async def send(self, *_: object) -> None:
        raise aiokafka.errors.NodeNotReadyError

    def _invalidate_preferred_read_replica_for_node(self, *_: object) -> None:
        pass


def test_a_fetch_that_waits_for_its_broker_ends_without_an_error_when_its_consumer_stops():
    read_all_async_records()

    async def stop() -> bool:
        fetch = asyncio.create_task(Fetcher._proc_fetch_request(Away(), None, 1, None))  # noqa: SLF001
        for _ in range(3):
            await asyncio.sleep(0)  # it has failed, and waits to try again
        fetch.cancel()
        return await fetch

    assert asyncio.run(stop()) is False


def test_a_connection_that_died_without_a_word_is_made_again_while_offsets_are_waited_for():
    async def find() -> int:
        return await find_end(KafkaConfig(bootstrap_servers="localhost:1").create_async_consumer(), 7)

    assert asyncio.run(find()) == 7


# ---- requests for topics and offsets, of a broker that goes away after it was reached --------------------------------

CLICKS, SPECS = Topics().clicks, Topics().specs(click_partitions=2, shards=2)


def compare(broker: InMemoryBroker) -> Any:
    with TopicWatch(broker, require_topics(broker, [CLICKS]), interval_s=1e6) as watch:
        return watch.check()


REQUESTS: dict[str, Callable[[InMemoryBroker], Any]] = {
    "describe": lambda broker: describe_topics(broker, SPECS),
    "create": lambda broker: create_topics(broker, SPECS),
    "partitions": lambda broker: require_partitions(broker, CLICKS),
    "identities": lambda broker: require_topics(broker, [CLICKS]),
    "compare": compare,
    "read": lambda broker: TopicReader(broker, CLICKS).partitions,
    "is empty": lambda broker: ask_log(broker, lambda log: log.is_empty(CLICKS)),
    "offsets": lambda broker: ask_log(broker, lambda log: log.offsets_at(CLICKS, 2, 0)),
}


def ask_log(broker: InMemoryBroker, request: Callable[[Any], Any]) -> Any:
    with open_partition_log(broker) as log:
        return request(log)


def make_broker(*, is_stopping: bool = False) -> InMemoryBroker:
    broker = InMemoryBroker({spec.name: spec.partitions for spec in SPECS})
    broker.waits = BrokerWaits(broker.bootstrap_servers, should_stop=lambda: is_stopping)
    return broker


@pytest.mark.parametrize("request_of", REQUESTS.values(), ids=REQUESTS)
def test_a_broker_that_goes_away_once_it_was_reached_is_waited_for(request_of, monkeypatch):
    monkeypatch.setattr("streams.clients.patience._RETRY_S", 0.0)
    broker = make_broker()
    expected = request_of(broker)
    broker.lose_questions(3)
    found = request_of(broker)
    assert found == expected
    assert not broker.waits.is_suspected, "the answer was not noted"


@pytest.mark.parametrize("request_of", REQUESTS.values(), ids=REQUESTS)
def test_a_process_that_is_asked_to_stop_does_not_wait_for_it(request_of):
    broker = make_broker(is_stopping=True)
    broker.lose_questions(2**31)
    with pytest.raises(BrokerError, match="lost on demand"):
        request_of(broker)


def kafka_threads() -> set[str]:
    """The threads of kafka-python."""
    return {thread.name for thread in threading.enumerate() if "kafka" in thread.name}


@pytest.mark.parametrize(
    "attempt",
    [
        lambda kafka: kafka.open_admin(timeout_ms=300),
        lambda kafka: kafka.open_consumer(max_poll_records=1),
        lambda kafka: kafka.open_producer(transactional_id=None),
    ],
    ids=["admin", "consumer", "producer"],
)
def test_an_attempt_to_connect_that_fails_leaves_no_thread(
    attempt: Callable[[KafkaConfig], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.clients.kafka_clients._CONNECT_TIMEOUT_MS", 300)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kafka = KafkaConfig(bootstrap_servers=f"127.0.0.1:{silent.getsockname()[1]}")
        before = kafka_threads()
        with pytest.raises(BrokerError, match="no broker answered"):
            attempt(kafka)
    assert kafka_threads() == before


def test_a_position_that_is_known_is_read_without_a_broker() -> None:
    consumer = object.__new__(PromptConsumer)  # without a connection
    consumer._subscription = subscription = SubscriptionState("earliest")
    partition = TopicPartition("t", 0)
    subscription.assign_from_user([partition])
    subscription.seek(partition, 7)
    assert consumer.position(partition) == 7


def test_asking_a_reader_for_its_position_is_no_answer_of_the_broker() -> None:
    broker = InMemoryBroker({"t": 1})
    with TopicReader(broker, "t") as reader:
        reader.poll(0)
        broker.waits.note_wait(reader, 0.0)
        reader.positions()
        assert broker.waits.is_suspected
