"""A Kafka producer that waits: bounded memory, and no failed record goes unnoticed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from streams.clients.config import KafkaConfig
from streams.errors import BrokerError
from streams.records import MAX_RECORD_BYTES

__all__ = ["MAX_IN_FLIGHT", "RecordProducer"]

MAX_IN_FLIGHT = 8
_CONNECT_TIMEOUT_S = 10.0
_BATCH_BYTES = 1 << 20


class RecordProducer:
    """Sends large records, idempotent and acknowledged by all replicas.

    Guarantees: never more than `max_in_flight` records without acknowledgement, so that is also how many a crash can
    leave undecided; the first failure stops the sending of everything behind it and is raised by the next call.

    Args:
        config: the broker.
        delivery_timeout_s: how long a record may take to be acknowledged, reconnecting included.
        max_in_flight: records without acknowledgement.

    Raises:
        BrokerError: nobody answers within 10 s.
    """

    def __init__(
        self, config: KafkaConfig, *, delivery_timeout_s: float = 60.0, max_in_flight: int = MAX_IN_FLIGHT
    ) -> None:
        self._servers = config.bootstrap_servers
        self._delivery_timeout_s = delivery_timeout_s
        self._max_in_flight = max_in_flight
        self._waiting: deque[Any] = deque()
        with self._explained(
            f"no broker answered within {_CONNECT_TIMEOUT_S:.0f} s; start one with `hotstream broker`"
        ):
            self._producer = KafkaProducer(
                bootstrap_servers=config.servers,
                bootstrap_timeout_ms=int(_CONNECT_TIMEOUT_S * 1000),
                max_block_ms=int(_CONNECT_TIMEOUT_S * 1000),
                request_timeout_ms=int(delivery_timeout_s * 500),
                delivery_timeout_ms=int(delivery_timeout_s * 1000),
                reconnect_backoff_max_ms=1000,
                enable_idempotence=True,
                acks="all",
                linger_ms=2,
                batch_size=_BATCH_BYTES,
                max_request_size=MAX_RECORD_BYTES,
                allow_auto_create_topics=False,
                **config.client_arguments(),
            )

    def __enter__(self) -> RecordProducer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for what is under way, unless it is the broker that failed or the process that is being ended."""
        keep = kind is None or (issubclass(kind, Exception) and not issubclass(kind, BrokerError))
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
        headers: Sequence[tuple[str, bytes]],
        *,
        key: bytes | None = None,
    ) -> None:
        """Hands over one record; waits while too many are under way.

        Raises:
            BrokerError: this record, or one before it, cannot be delivered.
        """
        while len(self._waiting) >= self._max_in_flight:
            self._await_oldest()
        with self._explained("a record could not be sent"):
            future = self._producer.send(topic, value, key=key, headers=list(headers), partition=partition)
        future.add_errback(self._stop_sending)
        self._waiting.append(future)

    def wait(self) -> None:
        """Returns when every record is acknowledged.

        Raises:
            BrokerError: one cannot be delivered.
        """
        while self._waiting:
            self._await_oldest()

    def _await_oldest(self) -> None:
        future = self._waiting.popleft()
        with self._explained(f"a record was not acknowledged within {self._delivery_timeout_s:.0f} s"):
            future.get(timeout=self._delivery_timeout_s + 5.0)

    def _stop_sending(self, _error: BaseException) -> None:
        """A record behind a lost one must not arrive: runs in the sender's thread, which then stops."""
        self._producer._sender.force_close()  # noqa: SLF001  close() sends what is waiting, whatever it is told

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
