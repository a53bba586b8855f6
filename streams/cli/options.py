"""The options of every command that connects to Kafka.

Only this module reads the environment. Precedence: option > environment > `--config` file > default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from streams.clients.config import KafkaConfig
from streams.clients.properties import load_properties
from streams.telemetry.broker_waits import BrokerWaits

__all__ = ["kafka_options", "max_bad_option", "open_kafka"]

Command = TypeVar("Command", bound=Callable[..., Any])
_DEFAULT_SERVERS = "localhost:9092"


max_bad_option = click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    metavar="RATIO",
    help="Share of the lines or records that may be malformed; with more, the exit code is 1.",
)


def kafka_options(command: Command) -> Command:
    """Adds `--bootstrap-servers`, `--config` and `--prefix`; they reach the command as `**kafka`."""
    for option in reversed(
        [
            click.option(
                "--bootstrap-servers",
                envvar="KAFKA_BOOTSTRAP_SERVERS",
                show_envvar=True,
                help=f"HOST:PORT[,HOST:PORT...] of the Kafka cluster.  [default: {_DEFAULT_SERVERS}]",
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
                help="Prefix of every topic name, without the dot.",
            ),
        ]
    ):
        command = option(command)
    return command


@contextmanager
def open_kafka(
    *,
    bootstrap_servers: str | None,
    config_path: Path | None,
    prefix: str,
    roles: Sequence[str] = (),
    group: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[KafkaConfig]:
    """The configuration from the Kafka options; inside the `with`, waits for the broker are reported.

    Args:
        bootstrap_servers: the option, as the others below.
        config_path: the option `--config`.
        prefix: the option.
        roles: the roles of the command (`streams.clients.rights`), whose rights are checked.
        group: its consumer group, if any.
        should_stop: whether the command was asked to stop; it then no longer waits for a broker that does not answer.

    Raises:
        ConfigError: an option is invalid.
        BrokerError: the broker refuses the login or a right.
    """
    properties = load_properties(config_path) if config_path else {}
    servers = bootstrap_servers or properties.get("bootstrap.servers", _DEFAULT_SERVERS)
    waits = BrokerWaits(servers, should_stop=should_stop)
    config = KafkaConfig(bootstrap_servers=servers, prefix=prefix, properties=properties, waits=waits)
    with waits.filtering():
        if roles:
            from streams.clients.rights import require_rights  # noqa: PLC0415 - `--help` does not need it

            require_rights(config, roles, group=group)
        yield config
