"""The options that every command which talks to Kafka has, in one place.

The environment is read here only: precedence is flag > environment > `--config` file > default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from streams.broker import open_broker
from streams.clients.config import KafkaConfig, load_properties

__all__ = ["kafka_options", "open_kafka"]

Command = TypeVar("Command", bound=Callable[..., Any])
_DEFAULT_SERVERS = "localhost:9092"


def kafka_options(command: Command) -> Command:
    """Adds `--bootstrap-servers`, `--broker`, `--config` and `--prefix`; they reach the command as `**kafka`."""
    for option in reversed(
        [
            click.option(
                "--bootstrap-servers",
                envvar="KAFKA_BOOTSTRAP_SERVERS",
                show_envvar=True,
                help=f"HOST:PORT[,HOST:PORT...] of the Kafka cluster.  [default: {_DEFAULT_SERVERS}]",
            ),
            click.option(
                "--broker",
                help="'embedded' or 'apache' starts a broker for as long as this command runs; HOST:PORT is the same "
                "as --bootstrap-servers.",
            ),
            click.option(
                "--config",
                "config_path",
                type=click.Path(path_type=Path),
                help="A Kafka client.properties file (security.protocol, sasl.*, ssl.*).",
            ),
            click.option(
                "--prefix",
                envvar="HOTSTREAM_PREFIX",
                show_envvar=True,
                default="hotstream",
                show_default=True,
                help="What every topic name begins with.",
            ),
        ]
    ):
        command = option(command)
    return command


@contextmanager
def open_kafka(
    *, bootstrap_servers: str | None, broker: str | None, config_path: Path | None, prefix: str
) -> Iterator[KafkaConfig]:
    """The configuration that the options mean, with the broker running that `--broker` asks for.

    Raises:
        ConfigError: an option that cannot be meant.
        BrokerError: the broker cannot be started.
    """
    properties = load_properties(config_path) if config_path else {}
    servers = bootstrap_servers or properties.get("bootstrap.servers", _DEFAULT_SERVERS)
    if broker is None:
        yield KafkaConfig(bootstrap_servers=servers, prefix=prefix, properties=properties)
        return
    with open_broker(broker) as address:
        yield KafkaConfig(bootstrap_servers=address, prefix=prefix, properties=properties)
