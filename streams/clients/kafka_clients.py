"""Clients of a real broker with hotstream's settings; `KafkaConfig` opens them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.consumer import fetcher as async_fetcher
from aiokafka.record.default_records import DefaultRecordBatch as AsyncRecordBatch
from aiokafka.record.memory_records import MemoryRecords as AsyncMemoryRecords
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.consumer.fetcher import Fetcher
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords
from kafka.serializer import Serializer

from streams.clients.login import check_login
from streams.clients.record_batches import ReadableRecords
from streams.errors import BrokerError, InvariantError
from streams.records.headers import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from streams.clients.config import KafkaConfig

__all__ = [
    "NULL_HEADER",
    "NULL_VALUE",
    "NullSerializer",
    "PartitionRecords",
    "create_async_consumer",
    "create_batch_producer",
    "mark_nulls",
    "open_admin",
    "open_consumer",
    "open_producer",
    "read_all_async_records",
]

_CONNECT_TIMEOUT_MS = 10_000
_FETCH_MAX_WAIT_MS = 20  # the default of 500 ms would delay a single change
_ASYNC_FETCH_BYTES = 64 << 20
_PRODUCER_BATCH_BYTES = 1 << 20
_ROOM_FOR_HEADERS_BYTES = 1 << 16
_MAX_BATCH_BYTES = 900_000
# The transaction of a process that died hides all later records from readers for so long, and up to 10 s more.
_TRANSACTION_TIMEOUT_MS = 15_000
# Apache Kafka refuses the first record of a transaction while it completes the one before. With kafka-python's 100 ms
# until the next try a transaction took 140 ms, with 10 ms 40 ms.
_TRANSACTION_RETRY_MS = 10


@contextmanager
def _connecting(config: KafkaConfig, timeout_ms: int = _CONNECT_TIMEOUT_MS) -> Iterator[None]:
    """Turns a client's error into a `BrokerError`.

    Raises:
        BrokerError: no broker answers, or one refuses the login.
    """
    check_login(config)
    try:
        yield
    except KafkaError as error:
        raise BrokerError(
            f"no broker answered at {config.bootstrap_servers} within {timeout_ms / 1000:.0f} s "
            f"({error or type(error).__name__}); start one with `hotstream broker`, or name yours with "
            "--bootstrap-servers, and what it demands with --config"
        ) from error


def open_consumer(config: KafkaConfig, *, auto_offset_reset: str, max_poll_records: int, repeats_ends: bool) -> Any:
    """See `Connector.open_consumer`."""
    with _connecting(config):
        consumer = KafkaConsumer(
            bootstrap_servers=config.servers,
            bootstrap_timeout_ms=_CONNECT_TIMEOUT_MS,
            enable_auto_commit=False,
            auto_offset_reset=auto_offset_reset,
            max_poll_records=max_poll_records,
            max_partition_fetch_bytes=MAX_RECORD_BYTES,
            fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
            enable_incremental_fetch_sessions=not repeats_ends,  # a session omits ends that have not changed
            allow_auto_create_topics=False,
            **config.consumer_arguments(),
        )
    _read_all_records(consumer)
    return consumer


class PartitionRecords(Fetcher.PartitionRecords):
    """kafka-python's records of one fetch, read by `ReadableRecords`."""

    def _unpack_records(self, tp: Any, records: Any, *deserializers: Any) -> Any:
        raw = records._buffer  # noqa: SLF001  the bytes of the fetch, of which nothing has been read
        readable = ReadableRecords(raw, DefaultRecordBatch, MemoryRecords)
        return super()._unpack_records(tp, readable, *deserializers)


def _read_all_records(consumer: Any) -> None:
    """Makes a consumer of kafka-python return what it cannot decode as records that say so.

    Raises:
        InvariantError: this version of kafka-python works differently.
    """
    fetcher = getattr(consumer, "_fetcher", None)
    if not isinstance(fetcher, Fetcher) or not hasattr(MemoryRecords(b""), "_buffer"):
        raise InvariantError("kafka-python: got a consumer without _fetcher, expected it; find its new name")
    fetcher.PartitionRecords = PartitionRecords


def read_all_async_records() -> None:
    """Makes every consumer of aiokafka in this process return what it cannot decode as records that say so.

    Raises:
        InvariantError: this version of aiokafka works differently.
    """
    if not hasattr(async_fetcher, "MemoryRecords"):
        raise InvariantError("aiokafka: got a fetcher without MemoryRecords, expected it; find its new name")
    async_fetcher.MemoryRecords = partial(ReadableRecords, make_batch=AsyncRecordBatch, make_records=AsyncMemoryRecords)


def create_async_consumer(config: KafkaConfig) -> Any:
    """See `Connector.create_async_consumer`."""
    read_all_async_records()
    return AIOKafkaConsumer(
        bootstrap_servers=config.servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_bytes=_ASYNC_FETCH_BYTES,
        max_partition_fetch_bytes=2 * MAX_RECORD_BYTES,
        fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
        **config.consumer_arguments(),
    )


class NullSerializer(Serializer):
    """Replaces the placeholders for a null value and for null headers with null."""

    def serialize(self, _topic: str, headers: list[tuple[str, bytes | None]], data: Any) -> Any:
        """The value; changes the headers in place, which kafka-python encodes afterwards."""
        headers[:] = [(name, None if content is NULL_HEADER else content) for name, content in headers]
        return None if data is NULL_VALUE else data


NULL_VALUE = object()
NULL_HEADER = type("NullHeader", (bytes,), {})()


class _UnsizedHeaders(list[tuple[str, "bytes | None"]]):
    """Headers that kafka-python does not size for its metrics: it takes the length of each value, null or not."""

    def __bool__(self) -> bool:
        return False


def mark_nulls(headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
    """The headers with a placeholder for null values, for which `NullSerializer` puts null again."""
    if all(content is not None for _, content in headers):
        return list(headers)
    return _UnsizedHeaders((name, NULL_HEADER if content is None else content) for name, content in headers)


class _Producer(KafkaProducer):
    """kafka-python's producer, which also sends records without key and value, and headers without a value."""

    def send(
        self,
        topic: str,
        value: bytes | None = None,
        *,
        headers: Sequence[tuple[str, bytes | None]] = (),
        **arguments: Any,
    ) -> Any:
        """Like `KafkaProducer.send`, which refuses such records before it calls the serializer."""
        sent = mark_nulls(headers)
        return super().send(topic, NULL_VALUE if value is None else value, headers=sent, **arguments)

    def abandon(self) -> None:
        """Discards unsent records, which `close` would send whatever its timeout."""
        self._sender.force_close()


class _TransactionalProducer(_Producer):
    """The same with transactions, whose end is awaited for as long as a record: kafka-python waits without end."""

    @property
    def transaction_error(self) -> BaseException | None:
        """Why no further transaction is possible; None if one is."""
        error = self._transaction_manager.last_error
        return error if isinstance(error, BaseException) else None

    def commit_transaction(self) -> None:
        """Commits the open transaction.

        Raises:
            KafkaError: the transaction was not committed, or (`KafkaTimeoutError`) it is not known whether it was.
        """
        self._await(self._transaction_manager.begin_commit())

    def abort_transaction(self) -> None:
        """Aborts the open transaction.

        Raises:
            KafkaError: the broker did not answer in time, or has ended the transaction before.
        """
        self._await(self._transaction_manager.begin_abort())

    def _await(self, result: Any) -> None:
        self._sender.wakeup()
        if not result.wait(timeout_ms=self.config["delivery_timeout_ms"]):
            raise KafkaTimeoutError("the transaction did not end in time")


def open_producer(config: KafkaConfig, *, delivery_timeout_s: float, transactional_id: str | None) -> Any:
    """See `Connector.open_producer`."""
    kind, arguments = _Producer, config.client_arguments()
    if transactional_id is not None:
        kind = _TransactionalProducer
        arguments |= {
            "transactional_id": transactional_id,
            "transaction_timeout_ms": _TRANSACTION_TIMEOUT_MS,
            "retry_backoff_ms": _TRANSACTION_RETRY_MS,
        }
    with _connecting(config):
        return kind(
            bootstrap_servers=config.servers,
            bootstrap_timeout_ms=_CONNECT_TIMEOUT_MS,
            max_block_ms=_CONNECT_TIMEOUT_MS,
            request_timeout_ms=int(delivery_timeout_s * 500),
            delivery_timeout_ms=int(delivery_timeout_s * 1000),
            reconnect_backoff_max_ms=1000,
            enable_idempotence=True,
            acks="all",
            linger_ms=2,
            batch_size=_PRODUCER_BATCH_BYTES,
            max_request_size=MAX_RECORD_BYTES,
            allow_auto_create_topics=False,
            value_serializer=NullSerializer(),
            **arguments,
        )


def create_batch_producer(config: KafkaConfig) -> Any:
    """See `Connector.create_batch_producer`."""
    return AIOKafkaProducer(
        bootstrap_servers=config.servers,
        acks="all",
        max_batch_size=_MAX_BATCH_BYTES + _ROOM_FOR_HEADERS_BYTES,
        max_request_size=MAX_RECORD_BYTES,
        **config.client_arguments(),
    )


def open_admin(config: KafkaConfig, *, timeout_ms: int) -> Any:
    """See `Connector.open_admin`."""
    with _connecting(config, timeout_ms):
        return KafkaAdminClient(
            bootstrap_servers=config.servers,
            bootstrap_timeout_ms=timeout_ms,
            request_timeout_ms=max(timeout_ms, _CONNECT_TIMEOUT_MS),
            **config.client_arguments(),
        )
