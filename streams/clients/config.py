"""The connection to Kafka: a frozen configuration that the command creates and every client receives.

Precedence: flag > environment > file > default. Properties have Kafka's own names, so an existing
`client.properties` works unchanged; each client library receives them under its own names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streams.clients.connector import Connector
from streams.clients.properties import redact, refuse_unknown
from streams.clients.security import SECURITY_PROPERTIES, security_arguments
from streams.errors import ConfigError
from streams.telemetry.broker_waits import BrokerWaits

__all__ = ["KafkaConfig", "connect"]

_ISOLATION_LEVELS = ("read_committed", "read_uncommitted")
_PATIENCE_S = 60.0  # of a caller who sets none; the commands wait as long as it takes
_KNOWN = SECURITY_PROPERTIES | {"bootstrap.servers", "client.id", "isolation.level"}


@dataclass(frozen=True, kw_only=True)
class KafkaConfig:
    """The address of the broker, and the settings for its clients.

    Args:
        bootstrap_servers: `HOST:PORT[,HOST:PORT...]`.
        prefix: the prefix of all topic names.
        properties: further Kafka client properties (security), under Kafka's own names.
        waits: how long its clients wait for a broker that does not answer; by default a minute.
    """

    bootstrap_servers: str
    prefix: str = "hotstream"
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold secrets
    waits: BrokerWaits = field(default=None, repr=False, compare=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.waits is None:
            object.__setattr__(self, "waits", BrokerWaits(self.bootstrap_servers, patience_s=_PATIENCE_S))
        for server in self.bootstrap_servers.split(","):
            if not re.fullmatch(r"\S+:\d{1,5}", server.strip()):
                raise ConfigError(
                    f"bootstrap servers: got {server!r}, expected HOST:PORT[,HOST:PORT...]; "
                    "set --bootstrap-servers or KAFKA_BOOTSTRAP_SERVERS"
                )
        if not re.fullmatch(r"[A-Za-z0-9.-]{1,100}", self.prefix) or self.prefix.startswith("."):
            raise ConfigError(
                f"--prefix: got {self.prefix!r}, expected 1 to 100 letters, digits, '.' or '-' (Kafka's metric "
                "names confuse '.' with '_')"
            )
        refuse_unknown(self.properties, _KNOWN)
        self.consumer_arguments()  # reports a wrong property now, not at the first connection

    @property
    def servers(self) -> list[str]:
        """The bootstrap servers as a list."""
        return [server.strip() for server in self.bootstrap_servers.split(",")]

    @property
    def is_secured(self) -> bool:
        """Whether the connection has TLS or a login, so that the broker knows a user who may lack rights."""
        return self.properties.get("security.protocol", "PLAINTEXT").upper() != "PLAINTEXT"

    def client_arguments(self) -> dict[str, Any]:
        """Arguments for every client of kafka-python and aiokafka, which share the names.

        Raises:
            ConfigError: a property is wrong, or a store that it names cannot be read.
        """
        name = {"client_id": self.properties["client.id"]} if self.properties.get("client.id") else {}
        return {**name, **security_arguments(self.properties)}

    def consumer_arguments(self, *, reads_to_end: bool = False) -> dict[str, Any]:
        """The same for consumers. They skip records of aborted transactions unless `isolation.level` demands them.

        Args:
            reads_to_end: whether the consumer reads a log to its end. Such a log holds state, such as how far a replay
                is and what agents have agreed on; an aborted transaction must not change it, whatever the property.

        Raises:
            ConfigError: a property is wrong, or a store that it names cannot be read.
        """
        level = self.properties.get("isolation.level", "read_committed")
        if level not in _ISOLATION_LEVELS:
            raise ConfigError(
                f"client property 'isolation.level': got another value, expected {' or '.join(_ISOLATION_LEVELS)}"
            )
        if reads_to_end:
            level = _ISOLATION_LEVELS[0]
        return {**self.client_arguments(), "isolation_level": level}

    # ---- a `Connector`; the client libraries are imported when a client is opened, not before -----------------------

    def open_consumer(
        self, *, auto_offset_reset: str = "earliest", max_poll_records: int = 500, reads_to_end: bool = False
    ) -> Any:
        """See `Connector.open_consumer`."""
        from streams.clients import kafka_clients  # noqa: PLC0415

        return kafka_clients.open_consumer(
            self, auto_offset_reset=auto_offset_reset, max_poll_records=max_poll_records, reads_to_end=reads_to_end
        )

    def create_async_consumer(self) -> Any:
        """See `Connector.create_async_consumer`."""
        from streams.clients import kafka_clients  # noqa: PLC0415

        return kafka_clients.create_async_consumer(self)

    def open_producer(self, *, transactional_id: str | None = None) -> Any:
        """See `Connector.open_producer`."""
        from streams.clients import kafka_clients  # noqa: PLC0415

        return kafka_clients.open_producer(self, transactional_id=transactional_id)

    def create_batch_producer(self) -> Any:
        """See `Connector.create_batch_producer`."""
        from streams.clients import kafka_clients  # noqa: PLC0415

        return kafka_clients.create_batch_producer(self)

    def open_admin(self, *, timeout_ms: int = 10_000) -> Any:
        """See `Connector.open_admin`."""
        from streams.clients import kafka_clients  # noqa: PLC0415

        return kafka_clients.open_admin(self, timeout_ms=timeout_ms)

    def describe(self) -> dict[str, Any]:
        """The configuration for printing, with secrets redacted."""
        return {**redact(self.properties), "bootstrap.servers": self.bootstrap_servers, "prefix": self.prefix}


def connect(broker: str | Connector, prefix: str, properties: Mapping[str, str] | None) -> Connector:
    """The connector of a broker that is named by its address; a connector as it is."""
    if isinstance(broker, str):
        return KafkaConfig(bootstrap_servers=broker, prefix=prefix, properties=properties or {})
    return broker
