"""`Connector` opens the clients of a broker. Code that takes a `Connector` also runs without a broker."""

from __future__ import annotations

from typing import Any, Protocol

from streams.telemetry.broker_waits import BrokerWaits

__all__ = ["Connector"]


class Connector(Protocol):
    """Opens the five kinds of clients that hotstream uses.

    `KafkaConfig` opens clients of kafka-python and aiokafka; `InMemoryBroker` opens clients with the same methods that
    use a log in this process. The caller owns a client and closes it.

    Attributes:
        bootstrap_servers: the name of the broker in messages.
        prefix: the prefix of all topic names.
        waits: how long its clients wait for the broker, and the log of it.
    """

    @property
    def bootstrap_servers(self) -> str: ...  # noqa: D102

    @property
    def prefix(self) -> str: ...  # noqa: D102

    @property
    def waits(self) -> BrokerWaits: ...  # noqa: D102

    def open_consumer(
        self, *, auto_offset_reset: str = "earliest", max_poll_records: int = 500, reads_to_end: bool = False
    ) -> Any:
        """A `kafka.KafkaConsumer` without a group, an assignment or commits.

        Args:
            auto_offset_reset: what to do at an offset that the broker does not have: `earliest`, or `none` (raises).
            max_poll_records: the largest number of records that a `poll` returns.
            reads_to_end: whether it reads a log to its end: every fetch then reports the end of each partition, even if
                it has not changed, and `isolation.level` does not count.

        Raises:
            BrokerError: no broker answers within 10 s.
        """

    def create_async_consumer(self) -> Any:
        """An `aiokafka.AIOKafkaConsumer` without a group, which `start` connects; for reading logs to their ends fast.

        `isolation.level` does not count.
        """

    def open_producer(self, *, transactional_id: str | None = None) -> Any:
        """A `kafka.KafkaProducer`, idempotent, acknowledged by all replicas, with two methods changed.

        It sends a record again until it is acknowledged or refused. `send` accepts a record without key and value;
        `abandon` discards records that were not sent. With a transactional id it also has the methods of transactions,
        which wait for the broker as `waits` allows, and `transaction_error`, the reason why no further transaction is
        possible, or None.

        Raises:
            BrokerError: no broker answers within 10 s.
        """

    def create_batch_producer(self) -> Any:
        """An `aiokafka.AIOKafkaProducer`, acknowledged by all replicas, which `start` connects; and `answers`."""

    def open_admin(self, *, timeout_ms: int = 10_000) -> Any:
        """A `kafka.admin.KafkaAdminClient`.

        Raises:
            BrokerError: no broker answers within `timeout_ms`.
        """
