"""A Kafka producer with bounded memory that reports every failed record."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from kafka.errors import KafkaError

from streams.clients.connector import Connector
from streams.errors import BrokerError

__all__ = ["MAX_IN_FLIGHT", "RecordProducer"]

MAX_IN_FLIGHT = 8


class RecordProducer:
    """Sends large records, idempotent and acknowledged by all replicas.

    Guarantees: at most `max_in_flight` records are unacknowledged, so a crash leaves at most as many in doubt; after
    the first failure no later record is sent, and the next call raises the failure.

    Args:
        connector: the broker.
        delivery_timeout_s: how long a record may take to be acknowledged, reconnecting included.
        max_in_flight: the largest number of unacknowledged records.

    Raises:
        BrokerError: no broker answers within 10 s.
    """

    def __init__(
        self, connector: Connector, *, delivery_timeout_s: float = 60.0, max_in_flight: int = MAX_IN_FLIGHT
    ) -> None:
        self._servers = connector.bootstrap_servers
        self._delivery_timeout_s = delivery_timeout_s
        self._max_in_flight = max_in_flight
        self._waiting: deque[Any] = deque()
        self._is_abandoned = False
        self._producer = connector.open_producer(delivery_timeout_s=delivery_timeout_s)

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
        while len(self._waiting) >= self._max_in_flight:
            self._await_oldest()
        with self._explained("a record could not be sent"):
            future = self._producer.send(topic, value, key=key, headers=list(headers), partition=partition)
        future.add_errback(self._stop_sending)
        self._waiting.append(future)

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
        future = self._waiting.popleft()
        with self._explained(f"a record was not acknowledged within {self._delivery_timeout_s:.0f} s"):
            future.get(timeout=self._delivery_timeout_s + 5.0)

    def _stop_sending(self, _error: BaseException) -> None:
        """Stops the sender's thread, which calls this, so that no record arrives after a lost one."""
        self._producer.abandon()

    def _close(self, *, keep: bool) -> None:
        if not keep:
            self._stop_sending(BrokerError("abandoned"))
        try:
            self._producer.close(timeout=self._delivery_timeout_s if keep else 5.0)
        except KafkaError:
            self._stop_sending(BrokerError("abandoned"))

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except KafkaError as error:
            raise BrokerError(f"{self._servers}: {what} ({error or type(error).__name__})") from error
