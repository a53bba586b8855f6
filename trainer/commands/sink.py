"""`hotstream sink redis`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from streams.cli.log_lines import log_options, say
from streams.cli.options import kafka_options, open_kafka
from streams.cli.reports import Report, json_option
from streams.cli.stop_request import StopRequest
from streams.escapes import escape

if TYPE_CHECKING:
    from trainer.serving.replica import Replica
    from trainer.serving.row_sink import RowSink

__all__ = ["command", "write"]

logger = logging.getLogger(__name__)

_RETRY_S = 1.0
_LINE_S = 10.0


@click.group("sink", short_help="Write what is trained to another store.")
def command() -> None:
    """Write what a trainer publishes (`hotstream train --publish`) to another store."""


@command.command("redis", short_help="Write the vectors of hot features to a Redis.")
@click.option(
    "--url",
    envvar="REDIS_URL",
    show_envvar=True,
    default="redis://localhost:6379/0",
    show_default=True,
    help="redis://, rediss:// (TLS) or unix:// of a database that is for this sink alone.",
)
@click.option("--until-end", is_flag=True, help="Stop at the end that the topic has at the start of the command.")
@kafka_options
@json_option
@log_options
def redis(url: str, until_end: bool, json_path: str | None, **kafka: Any) -> None:
    """SET the key of each hot feature (a raw int64) to its vector (raw float32), and DEL it when it becomes cold.

    It follows the topic `embeddings`. Keys of 8 bytes that are not hot are deleted at the start. A cold feature has no
    key: readers use a default for it.
    """
    try:
        from redis import Redis  # noqa: PLC0415  optional
    except ModuleNotFoundError as error:
        raise click.ClickException("redis-py is missing; run `pip install 'hotstream[redis]'`") from error
    from trainer.serving.replica import Replica  # noqa: PLC0415  numba takes time to import
    from trainer.serving.row_sink import RowSink  # noqa: PLC0415

    report, request = Report("sink redis"), StopRequest()
    with (
        request.listening(),
        _store(Redis, url) as store,
        open_kafka(roles=["replica"], should_stop=lambda: request.is_made, **kafka) as config,
        Replica(config) as replica,
    ):
        sink = RowSink(replica, store)
        _follow(replica, sink, until_end=until_end, should_stop=lambda: request.is_made)
        say(f"{sink.num_set} vectors written, {sink.num_deleted} keys deleted")
        report.finish(json_path, ok=True, set=sink.num_set, deleted=sink.num_deleted, as_of=replica.as_of())


def _store(make: Any, url: str) -> Any:
    """A client of the store; the password in its URL is shown nowhere."""
    try:
        return make.from_url(url, socket_timeout=10.0, health_check_interval=30)
    except ValueError as error:
        raise click.BadParameter(f"{error}", param_hint="--url") from error


def _follow(replica: Replica, sink: RowSink, *, until_end: bool, should_stop: Callable[[], bool]) -> None:
    """Reads and writes until it is to stop."""
    if until_end:
        replica.catch_up()
        while not write(replica, sink) and not should_stop():
            time.sleep(_RETRY_S)
        return
    line_s = time.monotonic()
    while not should_stop():
        replica.poll()
        if not write(replica, sink):
            time.sleep(_RETRY_S)
        if time.monotonic() - line_s >= _LINE_S:
            line_s = time.monotonic()
            counts = (sink.num_set, sink.num_deleted, replica.num_behind)
            logger.info("%d vectors written, %d keys deleted, %d records behind", *counts)


def write(replica: Replica, sink: RowSink) -> bool:
    """Writes what has changed; whether the store took it. One that does not answer is asked again.

    Raises:
        ClickException: the store refuses.
    """
    import redis.exceptions as refused  # noqa: PLC0415  optional

    if not replica.is_ready:
        return True
    try:
        sink.write()
    except refused.AuthenticationError as error:  # it is a ConnectionError, too
        raise click.ClickException(f"--url: the store refuses the login ({escape(str(error))})") from error
    except (refused.ConnectionError, refused.TimeoutError) as error:
        logger.warning("the store does not answer (%s); trying again", error)
        return False
    except refused.RedisError as error:
        raise click.ClickException(f"--url: the store refuses to write ({escape(str(error)[:300])})") from error
    return True
