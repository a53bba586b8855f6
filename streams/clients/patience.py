"""Requests of consumers that wait for a broker that does not answer, as long as `BrokerWaits` allows.

The client libraries give up after a while, and raise an error that they call retriable.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from kafka import TopicPartition
from kafka.errors import KafkaError, RetriableError

from streams.telemetry.broker_waits import BrokerWaits

__all__ = ["STALL_S", "Stall", "answered", "answers", "ask", "ask_once", "may_pass", "wait_for_answer"]

STALL_S = 30.0
_ASK_MS = 1000
_RETRY_S = 0.5

Result = TypeVar("Result")


def may_pass(error: Exception) -> bool:
    """Whether an error of either client library may be gone at the next attempt: no broker, no leader, no answer."""
    timeouts = (asyncio.TimeoutError, TimeoutError)  # two classes before Python 3.11
    # aiokafka's is not `retriable`, and `isinstance` would import aiokafka into processes that do without it.
    has_timed_out = isinstance(error, timeouts) or type(error).__name__ == "KafkaTimeoutError"
    return has_timed_out or bool(getattr(error, "retriable", False))


def ask(
    method: Callable[..., dict[TopicPartition, int]],
    partitions: list[TopicPartition],
    waits: BrokerWaits,
    check: Callable[[], None] = lambda: None,
) -> dict[TopicPartition, int]:
    """The answer of `beginning_offsets` or `end_offsets` of a consumer; waits for a broker that does not answer.

    For a topic that was deleted the client libraries wait, too; `check` ends the wait by an error.

    Args:
        method: the method.
        partitions: its argument.
        waits: the waits for the broker.
        check: called about once a second while it waits.

    Raises:
        BrokerError: the broker does not answer, and patience has ended.
        KafkaError: the broker refuses.
    """
    since_s = time.monotonic()
    while (answer := ask_once(method, partitions, waits, since_s)) is None:
        waits.check()
        check()
    return answer


def answers(consumer: Any, partitions: list[TopicPartition], waits: BrokerWaits) -> bool:
    """Whether the broker answers a consumer within a second.

    Raises:
        KafkaError: the broker refuses.
    """
    return ask_once(consumer.end_offsets, partitions, waits, time.monotonic()) is not None


def ask_once(
    method: Callable[..., dict[TopicPartition, int]],
    partitions: list[TopicPartition],
    waits: BrokerWaits,
    since_s: float,
) -> dict[TopicPartition, int] | None:
    """The answer; None if there is none within a second, which is noted as a wait since `since_s`.

    Raises:
        KafkaError: the broker refuses.
    """
    try:
        answer = method(partitions, timeout_ms=_ASK_MS)
    except RetriableError:
        waits.note_wait(method.__self__, since_s)  # type: ignore[attr-defined]
        return None
    waits.note_answer()
    return answer


async def answered(request: Callable[[], Awaitable[Result]], waits: BrokerWaits) -> Result:
    """The result of a request of aiokafka, which is repeated until the broker answers.

    Raises:
        BrokerError: the broker does not answer, and patience has ended.
        KafkaError: the broker refuses.
    """
    since_s = time.monotonic()
    while True:
        try:
            result = await request()
        except Exception as error:  # noqa: PERF203  one attempt
            if not may_pass(error):
                raise
            waits.note_wait(waits, since_s)
            waits.check()
            await asyncio.sleep(_RETRY_S)
        else:
            waits.note_answer()
            return result


def wait_for_answer(request: Callable[[], Result], waits: BrokerWaits) -> Result:
    """The result of a request of kafka-python, which is repeated until the broker answers.

    For requests that cannot be made in slices, as `ask` makes them. So a process that is asked to stop does not repeat
    one: its error is raised.

    Raises:
        BrokerError: the broker does not answer, and patience has ended.
        KafkaError: the broker refuses, or does not answer a process that is asked to stop.
    """
    since_s = time.monotonic()
    while True:
        try:
            result = request()
        except KafkaError as error:  # noqa: PERF203  one attempt
            if not may_pass(error) or waits.is_stopping:
                raise
            waits.note_wait(waits, since_s)
            waits.check()
            time.sleep(_RETRY_S)
        else:
            waits.note_answer()
            return result


class Stall:
    """Watches a reader that waits for records which the partitions must have.

    Args:
        consumer: a consumer of kafka-python.
        partitions: what it reads.
        waits: the waits for the broker.
    """

    def __init__(self, consumer: Any, partitions: list[TopicPartition], waits: BrokerWaits) -> None:
        self._consumer = consumer
        self._partitions = partitions
        self._waits = waits
        self._deadline_s = time.monotonic() + STALL_S

    def note_records(self) -> None:
        """Starts the time again, because records have come."""
        self._deadline_s = time.monotonic() + STALL_S
        self._waits.note_answer()

    @property
    def is_over(self) -> bool:
        """Whether none came for 30 s from a broker that answers.

        Raises:
            BrokerError: the broker does not answer, and patience has ended.
            KafkaError: the broker refuses.
        """
        if time.monotonic() <= self._deadline_s and not self._waits.is_stopping:
            return False
        if answers(self._consumer, self._partitions, self._waits):
            return time.monotonic() > self._deadline_s
        self._waits.check()
        self._deadline_s = time.monotonic() + STALL_S
        return False
