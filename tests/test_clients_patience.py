"""Requests that wait for a broker: which errors of the client libraries may be gone at the next attempt."""

from __future__ import annotations

import asyncio

import aiokafka.errors
import kafka.errors
import pytest
from aiokafka.consumer.fetcher import Fetcher

from streams.clients.kafka_clients import read_all_async_records
from streams.clients.patience import answered, may_pass
from streams.telemetry.broker_waits import BrokerWaits

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
