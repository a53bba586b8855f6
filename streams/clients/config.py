"""The connection to Kafka: a frozen configuration that the command creates and every client receives.

Precedence: flag > environment > file > default. Properties have Kafka's own names, so an existing
`client.properties` works unchanged; each client library receives them under its own names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streams.errors import ConfigError

__all__ = ["KafkaConfig", "load_properties", "redact"]

_SECRET = re.compile(r"password|secret|jaas|token|credential", re.IGNORECASE)
# Kafka's (and librdkafka's) property -> the argument of kafka-python and aiokafka, which share them.
_ARGUMENTS = {
    "security.protocol": "security_protocol",
    "sasl.mechanism": "sasl_mechanism",
    "sasl.mechanisms": "sasl_mechanism",
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
    "ssl.ca.location": "ssl_cafile",
    "ssl.certificate.location": "ssl_certfile",
    "ssl.key.location": "ssl_keyfile",
    "ssl.key.password": "ssl_password",
}
_JAAS = re.compile(r'\b(username|password)\s*=\s*"((?:[^"\\]|\\.)*)"')


def load_properties(path: Path) -> dict[str, str]:
    """Properties of a `client.properties` file: `name=value` lines, `#` comments.

    Raises:
        ConfigError: the file is missing, is not UTF-8, or a line has no `=`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--config {path}: cannot be read ({error.strerror}); expected a readable file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--config {path}: got bytes that are not UTF-8 at {error.start}; name a text file"
        ) from error
    properties = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in "#!":
            continue
        name, equals, value = line.partition("=")
        if not equals:
            raise ConfigError(f"--config {path}, line {number}: got {line!r}, expected name=value")
        properties[name.strip()] = value.strip()
    return properties


def redact(properties: Mapping[str, str]) -> dict[str, str]:
    """The properties, with `***` in place of every secret, for printing."""
    return {name: "***" if _SECRET.search(name) else value for name, value in properties.items()}


def _parse_jaas(value: str) -> dict[str, str]:
    """Username and password of a `sasl.jaas.config`, as arguments of a client.

    Raises:
        ConfigError: username or password is missing.
    """
    found = {name: re.sub(r"\\(.)", r"\1", quoted) for name, quoted in _JAAS.findall(value)}
    if found.keys() != {"username", "password"}:
        raise ConfigError(
            'client property \'sasl.jaas.config\': expected a login module with username="..." password="..."'
        )
    return {f"sasl_plain_{name}": text for name, text in found.items()}


@dataclass(frozen=True, kw_only=True)
class KafkaConfig:
    """The address of the broker, and the settings for its clients.

    Args:
        bootstrap_servers: `HOST:PORT[,HOST:PORT...]`.
        prefix: the prefix of all topic names.
        properties: further Kafka client properties (security), under Kafka's own names.
    """

    bootstrap_servers: str
    prefix: str = "hotstream"
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold secrets

    def __post_init__(self) -> None:
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
        unknown = set(self.properties) - set(_ARGUMENTS) - {"sasl.jaas.config", "bootstrap.servers"}
        if unknown:
            known = ", ".join([*sorted(_ARGUMENTS), "sasl.jaas.config"])
            raise ConfigError(f"client property: got {min(unknown)!r}, expected one of {known}")
        self.client_arguments()  # reports a malformed JAAS line now, not at the first connection

    @property
    def servers(self) -> list[str]:
        """The bootstrap servers as a list."""
        return [server.strip() for server in self.bootstrap_servers.split(",")]

    def client_arguments(self) -> dict[str, Any]:
        """Security arguments for clients of kafka-python and aiokafka, which share the names."""
        arguments: dict[str, Any] = {}
        for name, value in self.properties.items():
            if name in _ARGUMENTS:
                arguments[_ARGUMENTS[name]] = value
            elif name == "sasl.jaas.config":
                arguments.update(_parse_jaas(value))
        return arguments

    # ---- a `Connector`; the client libraries are imported when a client is opened, not before -----------------------

    def open_consumer(
        self, *, auto_offset_reset: str = "earliest", max_poll_records: int = 500, repeats_ends: bool = False
    ) -> Any:
        """See `Connector.open_consumer`."""
        from streams.clients import kafka_clients  # noqa: PLC0415

        return kafka_clients.open_consumer(
            self, auto_offset_reset=auto_offset_reset, max_poll_records=max_poll_records, repeats_ends=repeats_ends
        )

    def create_async_consumer(self) -> Any:
        """See `Connector.create_async_consumer`."""
        from streams.clients import kafka_clients  # noqa: PLC0415

        return kafka_clients.create_async_consumer(self)

    def open_producer(self, *, delivery_timeout_s: float) -> Any:
        """See `Connector.open_producer`."""
        from streams.clients import kafka_clients  # noqa: PLC0415

        return kafka_clients.open_producer(self, delivery_timeout_s=delivery_timeout_s)

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
