"""`Connector` opens the clients of a broker. Code that takes one runs without a broker, too."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Connector"]


class Connector(Protocol):
    """Opens the five kinds of clients that hotstream uses.

    `KafkaConfig` opens kafka-python's and aiokafka's; `InMemoryBroker` opens clients of a log in this process, with
    the same methods. A client belongs to the caller, who closes it.

    Attributes:
        bootstrap_servers: what messages call the broker.
        prefix: what every topic name begins with.
    """

    @property
    def bootstrap_servers(self) -> str: ...  # noqa: D102

    @property
    def prefix(self) -> str: ...  # noqa: D102

    def open_consumer(
        self, *, auto_offset_reset: str = "earliest", max_poll_records: int = 500, repeats_ends: bool = False
    ) -> Any:
        """A `kafka.KafkaConsumer` with no group, nothing assigned and nothing committed.

        Args:
            auto_offset_reset: where to go from an offset that the broker does not have: `earliest`, or `none` (raises).
            max_poll_records: how many records a `poll` returns at most.
            repeats_ends: have the broker repeat the end of each partition in every fetch, changed or not.

        Raises:
            BrokerError: nobody answers within 10 s.
        """

    def create_async_consumer(self) -> Any:
        """An `aiokafka.AIOKafkaConsumer` with no group, not connected before its `start`; for reading much, quickly."""

    def open_producer(self, *, delivery_timeout_s: float) -> Any:
        """A `kafka.KafkaProducer`, idempotent, acknowledged by all replicas, with two methods changed.

        `send` takes a record without key and value; `abandon` makes it forget what was not sent.

        Raises:
            BrokerError: nobody answers within 10 s.
        """

    def create_batch_producer(self) -> Any:
        """An `aiokafka.AIOKafkaProducer`, acknowledged by all replicas, that is not connected before its `start`."""

    def open_admin(self, *, timeout_ms: int = 10_000) -> Any:
        """A `kafka.admin.KafkaAdminClient`.

        Raises:
            BrokerError: nobody answers within `timeout_ms`.
        """
