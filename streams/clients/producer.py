"""A Kafka producer with bounded memory that reports every failed record."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from kafka.errors import KafkaError, KafkaTimeoutError

from streams.clients.admin import require_known
from streams.clients.connector import Connector
from streams.clients.refusals import explain_refusal
from streams.errors import BrokerError

__all__ = ["MAX_IN_FLIGHT", "RecordProducer"]

MAX_IN_FLIGHT = 8
_SLICE_S = 0.5  # of a wait; between two the process may be asked to stop
_CLOSE_S = 5.0
_UNKNOWN_S = 60.0  # a topic may be unknown for so long to a broker that has just started


class _Sent:
    """A record that is not known to be acknowledged: its topic, when it was sent, and when the topic last existed."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.since_s = self.known_s = time.monotonic()
        self.future: Any = None

    @property
    def is_late(self) -> bool:
        """Whether it was sent so long ago that an acknowledgement is overdue."""
        return time.monotonic() - self.since_s > _SLICE_S


class RecordProducer:
    """Sends large records, idempotent and acknowledged by all replicas.

    Guarantees: at most `max_in_flight` records are unacknowledged, so a crash leaves at most as many in doubt; after
    the first failure no later record is sent, and the next call raises the failure. A record waits for a broker that
    does not answer as long as `connector.waits` allows.

    Args:
        connector: the broker.
        max_in_flight: the largest number of unacknowledged records.
        transactional_id: for `TransactionalProducer`.

    Raises:
        BrokerError: no broker answers within 10 s.
    """

    def __init__(
        self, connector: Connector, *, max_in_flight: int = MAX_IN_FLIGHT, transactional_id: str | None = None
    ) -> None:
        self._connector = connector
        self._max_in_flight = max_in_flight
        self._waiting: deque[_Sent] = deque()
        self._is_abandoned = False
        self._failure: BaseException | None = None
        self._producer = connector.open_producer(transactional_id=transactional_id)

    def __enter__(self) -> RecordProducer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for records in flight, unless the broker has failed or the process is being terminated."""
        keep = kind is None or (issubclass(kind, Exception) and not issubclass(kind, BrokerError))
        keep = keep and not self._is_abandoned
        try:
            if keep:
                self.wait()
        except BrokerError:
            keep = False
            raise
        finally:
            self._close(keep=keep)

    def send(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        *,
        key: bytes | None = None,
    ) -> None:
        """Sends one record; waits while too many are in flight.

        Raises:
            BrokerError: this record, or one before it, cannot be delivered.
        """
        self._take_acknowledged()
        while len(self._waiting) >= self._max_in_flight:
            self._await_oldest()
        sent = _Sent(topic)
        with self._explained("a record could not be sent", topic):
            while sent.future is None:
                try:
                    sent.future = self._producer.send(topic, value, key=key, headers=list(headers), partition=partition)
                except KafkaTimeoutError:  # noqa: PERF203  the broker went away before it had described the topic
                    self._note_wait(sent)
        sent.future.add_errback(self._stop_sending)
        self._waiting.append(sent)

    def abandon(self) -> None:
        """Discards the records that are not acknowledged; a caller that waits for one of them fails."""
        self._is_abandoned = True
        self._producer.abandon()

    def wait(self) -> None:
        """Waits until every record is acknowledged.

        Raises:
            BrokerError: a record cannot be delivered.
        """
        while self._waiting:
            self._await_oldest()

    def _await_oldest(self) -> None:
        sent = self._waiting.popleft()
        with self._explained("a record was not acknowledged", sent.topic):
            while True:
                try:
                    sent.future.get(timeout=_SLICE_S)
                except KafkaTimeoutError:  # noqa: PERF203  a slice of the wait
                    if sent.future.is_done:
                        raise
                    self._note_wait(sent)
                else:
                    self._connector.waits.note_answer()
                    return

    def _note_wait(self, sent: _Sent) -> None:
        """Reports the wait for a record, and ends it when it is over, or for nothing."""
        waits = self._connector.waits
        waits.note_wait(self, sent.since_s, len(self._waiting) + 1)
        waits.check()
        if time.monotonic() - sent.known_s > _UNKNOWN_S:
            require_known(self._connector, sent.topic)
            sent.known_s = time.monotonic()

    def _take_acknowledged(self) -> None:
        """Takes what is acknowledged, and reports the wait for the oldest record, without waiting."""
        while self._waiting and self._waiting[0].future.succeeded():
            self._waiting.popleft()
            self._connector.waits.note_answer()
        if self._waiting and not self._waiting[0].future.is_done and self._waiting[0].is_late:
            self._connector.waits.note_wait(self, self._waiting[0].since_s, len(self._waiting))

    def _stop_sending(self, error: BaseException) -> None:
        """Stops the sender's thread, which calls this, so that no record arrives after a lost one."""
        self._failure = self._failure or error  # the first one: those of the other records only follow from it
        self._producer.abandon()

    def _close(self, *, keep: bool) -> None:
        if not keep:
            self._stop_sending(BrokerError("abandoned"))
        try:
            self._producer.close(timeout=_CLOSE_S if keep else _SLICE_S)
        except KafkaError:
            self._stop_sending(BrokerError("abandoned"))

    @contextmanager
    def _explained(self, what: str, topic: str = "") -> Iterator[None]:
        try:
            yield
        except KafkaError as error:
            cause = self._failure or error
            raise BrokerError(
                f"{self._connector.bootstrap_servers}: {what} ({explain_refusal(cause, 'WRITE', topic)})"
            ) from cause
