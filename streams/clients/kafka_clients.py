"""Clients of a real broker with hotstream's settings; `KafkaConfig` opens them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from kafka.serializer import Serializer

from streams.clients.login import check_login
from streams.errors import BrokerError
from streams.records.headers import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from streams.clients.config import KafkaConfig

__all__ = ["create_async_consumer", "create_batch_producer", "open_admin", "open_consumer", "open_producer"]

_CONNECT_TIMEOUT_MS = 10_000
_FETCH_MAX_WAIT_MS = 20  # the default of 500 ms would delay a single change
_ASYNC_FETCH_BYTES = 64 << 20
_PRODUCER_BATCH_BYTES = 1 << 20
_ROOM_FOR_HEADERS_BYTES = 1 << 16
_MAX_BATCH_BYTES = 900_000


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
        return KafkaConsumer(
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


def create_async_consumer(config: KafkaConfig) -> Any:
    """See `Connector.create_async_consumer`."""
    return AIOKafkaConsumer(
        bootstrap_servers=config.servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_bytes=_ASYNC_FETCH_BYTES,
        max_partition_fetch_bytes=2 * MAX_RECORD_BYTES,
        fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
        **config.consumer_arguments(),
    )


class _NullSerializer(Serializer):
    """Replaces the placeholder for a null value with null."""

    def serialize(self, _topic: str, _headers: Any, data: Any) -> Any:
        return None if data is _NULL else data


_NULL = object()


class _Producer(KafkaProducer):
    """kafka-python's producer, which also sends records without key and value."""

    def send(self, topic: str, value: bytes | None = None, **arguments: Any) -> Any:
        """Like `KafkaProducer.send`, which refuses a record without both before it calls the serializer."""
        return super().send(topic, _NULL if value is None else value, **arguments)

    def abandon(self) -> None:
        """Discards unsent records, which `close` would send whatever its timeout."""
        self._sender.force_close()


def open_producer(config: KafkaConfig, *, delivery_timeout_s: float) -> Any:
    """See `Connector.open_producer`."""
    with _connecting(config):
        return _Producer(
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
            value_serializer=_NullSerializer(),
            **config.client_arguments(),
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
