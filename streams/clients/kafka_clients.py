"""Clients of a real broker with hotstream's settings; `KafkaConfig` opens them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.consumer.fetcher import Fetcher
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient
from kafka.record.memory_records import MemoryRecords
from kafka.serializer import Serializer

from streams.clients.async_consumers import outlast_requests, read_all_async_records
from streams.clients.compiled_records import PartitionRecords
from streams.clients.login import check_login
from streams.clients.patience import may_pass
from streams.errors import BrokerError, InvariantError
from streams.records.headers import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from streams.clients.config import KafkaConfig
    from streams.telemetry.broker_waits import BrokerWaits

__all__ = [
    "NULL_HEADER",
    "NULL_VALUE",
    "NetClient",
    "NullSerializer",
    "PromptConsumer",
    "create_async_consumer",
    "create_batch_producer",
    "mark_nulls",
    "open_admin",
    "open_consumer",
    "open_producer",
]

_CONNECT_TIMEOUT_MS = 10_000
_RECONNECT_TIMEOUT_MS = 4_000
# A connection that dies without a word is noticed and made again after this time.
_REQUEST_TIMEOUT_MS = 20_000
_FOR_EVER_MS = 2**31 - 1
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
_SLICE_MS = 500  # of a wait; between two the process may be asked to stop


class NetClient(KafkaNetClient):
    """kafka-python's network client, for which a broker that cannot be reached is one that is not ready."""

    def await_ready(self, node_id: Any, timeout_ms: float = 30_000) -> bool:
        """Whether a broker is connected within the time.

        kafka-python raises instead, and its sender then forgets the request of a transaction that it was about to send
        to that broker, if it is the coordinator: the records of the transaction wait for ever.
        """
        try:
            return bool(super().await_ready(node_id, timeout_ms=timeout_ms))
        except KafkaError as error:
            if not may_pass(error):
                raise
            return False


def _connect(config: KafkaConfig, make: Callable[..., Any], timeout_ms: int = _CONNECT_TIMEOUT_MS) -> Any:
    """A connected client. Once the broker has answered this process, it is waited for as `config.waits` allows.

    Raises:
        BrokerError: no broker answers, or one refuses the login.
    """
    check_login(config)
    since_s = time.monotonic()
    is_patient = config.waits.may_reconnect and timeout_ms >= _CONNECT_TIMEOUT_MS  # a caller in a hurry asks once
    if is_patient:
        timeout_ms = min(timeout_ms, _RECONNECT_TIMEOUT_MS)  # between two attempts it may be asked to stop
    while (client := _connect_once(config, make, timeout_ms, is_patient=is_patient)) is None:
        config.waits.note_wait(config, since_s)
        config.waits.check()
    config.waits.note_answer()
    return client


def _connect_once(config: KafkaConfig, make: Callable[..., Any], timeout_ms: int, *, is_patient: bool) -> Any:
    """A connected client; None if no broker has answered and the caller waits for one."""
    opened = list[NetClient]()

    def open_net_client(**arguments: Any) -> NetClient:
        opened.append(NetClient(**arguments))
        return opened[-1]

    try:
        return make(bootstrap_servers=config.servers, bootstrap_timeout_ms=timeout_ms, kafka_client=open_net_client)
    except KafkaError as error:
        for client in opened:  # a constructor that fails leaves a thread and sockets behind
            client.close()
        if is_patient and may_pass(error):
            return None
        raise BrokerError(
            f"no broker answered at {config.bootstrap_servers} within {timeout_ms / 1000:.0f} s "
            f"({error or type(error).__name__}); start one with `hotstream broker`, or name yours with "
            "--bootstrap-servers, and what it demands with --config"
        ) from error


def open_consumer(config: KafkaConfig, *, auto_offset_reset: str, max_poll_records: int, reads_to_end: bool) -> Any:
    """See `Connector.open_consumer`."""
    consumer = _connect(
        config,
        partial(
            PromptConsumer,
            enable_auto_commit=False,
            auto_offset_reset=auto_offset_reset,
            max_poll_records=max_poll_records,
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
            reconnect_backoff_max_ms=1000,
            max_partition_fetch_bytes=MAX_RECORD_BYTES,
            fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
            enable_incremental_fetch_sessions=not reads_to_end,  # a session omits ends that have not changed
            allow_auto_create_topics=False,
            metrics_enabled=False,  # nobody reads them, and each fetch and record would pay for them
            **config.consumer_arguments(reads_to_end=reads_to_end),
        ),
    )
    _read_all_records(consumer)
    return consumer


class PromptConsumer(KafkaConsumer):
    """kafka-python's consumer, which knows its own position without the broker."""

    def position(self, partition: TopicPartition, timeout_ms: float | None = None) -> int | None:
        """The offset of the next record that `poll` returns.

        kafka-python asks the broker here whether a known position is valid after a restart, and raises if none answers;
        `poll` does so anyway.
        """
        state = self._subscription.assignment.get(partition)
        if state is not None and state.position is not None:
            return int(state.position.offset)
        offset: int | None = super().position(partition, timeout_ms)
        return offset


def _read_all_records(consumer: Any) -> None:
    """Makes a consumer of kafka-python return what it cannot decode as records that say so.

    Raises:
        InvariantError: this version of kafka-python works differently.
    """
    fetcher = getattr(consumer, "_fetcher", None)
    if not isinstance(fetcher, Fetcher) or not hasattr(MemoryRecords(b""), "_buffer"):
        raise InvariantError("kafka-python: got a consumer without _fetcher, expected it; find its new name")
    fetcher.PartitionRecords = PartitionRecords


def create_async_consumer(config: KafkaConfig) -> Any:
    """See `Connector.create_async_consumer`."""
    read_all_async_records()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=config.servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        request_timeout_ms=_REQUEST_TIMEOUT_MS,
        fetch_max_bytes=_ASYNC_FETCH_BYTES,
        max_partition_fetch_bytes=2 * MAX_RECORD_BYTES,
        fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
        **config.consumer_arguments(reads_to_end=True),
    )
    outlast_requests(consumer, _REQUEST_TIMEOUT_MS)
    return consumer


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
    """The same with transactions, whose end is awaited as long as `waits` allows: kafka-python waits without end.

    Attributes:
        waits: the waits for the broker.
    """

    waits: BrokerWaits

    @property
    def transaction_error(self) -> BaseException | None:
        """Why no further transaction is possible; None if one is."""
        error = self._transaction_manager.last_error
        return error if isinstance(error, BaseException) else None

    def commit_transaction(self) -> None:
        """Commits the open transaction.

        Raises:
            KafkaError: the transaction was not committed.
            BrokerError: the broker does not answer, and patience has ended; it is not known whether it was committed.
        """
        self._await(self._transaction_manager.begin_commit())

    def abort_transaction(self) -> None:
        """Aborts the open transaction.

        Raises:
            KafkaError: the broker has ended the transaction before.
            BrokerError: the broker does not answer, and patience has ended.
        """
        self._await(self._transaction_manager.begin_abort())

    def _await(self, result: Any) -> None:
        self._sender.wakeup()
        since_s = time.monotonic()
        while not result.wait(timeout_ms=_SLICE_MS):
            self.waits.note_wait(self, since_s)
            self.waits.check()
        self.waits.note_answer()


def open_producer(config: KafkaConfig, *, transactional_id: str | None) -> Any:
    """See `Connector.open_producer`."""
    kind, arguments = _Producer, config.client_arguments()
    if transactional_id is not None:
        kind = _TransactionalProducer
        arguments |= {
            "transactional_id": transactional_id,
            "transaction_timeout_ms": _TRANSACTION_TIMEOUT_MS,
            "retry_backoff_ms": _TRANSACTION_RETRY_MS,
        }
    producer = _connect(
        config,
        partial(
            kind,
            max_block_ms=_CONNECT_TIMEOUT_MS,
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
            delivery_timeout_ms=_FOR_EVER_MS,
            reconnect_backoff_max_ms=1000,
            enable_idempotence=True,
            acks="all",
            linger_ms=2,
            batch_size=_PRODUCER_BATCH_BYTES,
            max_request_size=MAX_RECORD_BYTES,
            allow_auto_create_topics=False,
            value_serializer=NullSerializer(),
            **arguments,
        ),
    )
    if isinstance(producer, _TransactionalProducer):
        producer.waits = config.waits
    return producer


class _BatchProducer(AIOKafkaProducer):
    """aiokafka's producer, which also reports whether the broker answers."""

    async def answers(self) -> bool:
        """Whether the broker answers a request for the topics' metadata."""
        return bool(await self.client.force_metadata_update())


def create_batch_producer(config: KafkaConfig) -> Any:
    """See `Connector.create_batch_producer`."""
    return _BatchProducer(
        bootstrap_servers=config.servers,
        request_timeout_ms=_REQUEST_TIMEOUT_MS,
        acks="all",
        max_batch_size=_MAX_BATCH_BYTES + _ROOM_FOR_HEADERS_BYTES,
        max_request_size=MAX_RECORD_BYTES,
        **config.client_arguments(),
    )


def open_admin(config: KafkaConfig, *, timeout_ms: int) -> Any:
    """See `Connector.open_admin`."""
    return _connect(
        config,
        partial(
            KafkaAdminClient,
            request_timeout_ms=max(timeout_ms, _CONNECT_TIMEOUT_MS),
            reconnect_backoff_max_ms=1000,
            **config.client_arguments(),
        ),
        timeout_ms,
    )
