"""`hotstream dashboard`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from streams.cli.listen_options import listen_options
from streams.cli.log_lines import log_options, say
from streams.cli.options import kafka_options, open_kafka
from streams.cli.stop_request import StopRequest
from streams.clients.config import KafkaConfig

__all__ = ["command"]


@click.command("dashboard", short_help="Serve a page of the hot set, agents, trainer and history.")
@listen_options(8088)
@click.option("--shadow", metavar="NAME", help="Also compare with this shadow (`hotstream agent --shadow NAME`).")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two updates.",
)
@kafka_options
@log_options
def command(host: str, port: int, token_file: Path | None, shadow: str | None, interval_s: float, **kafka: Any) -> None:
    """Serve a page that shows the hot set live, its history, one feature's story, and the table of an earlier moment.

    The charts begin with the start of this command. The page needs no other site, and there is no TLS: for readers on
    other machines put a proxy with TLS before it.
    """
    from streams.dashboard.access import Access, read_token  # noqa: PLC0415  aiohttp takes time to import

    request = StopRequest()
    access = Access(host, None if token_file is None else read_token(token_file))
    roles = ["top"] if shadow is None else ["top", "compare"]
    with (
        request.listening(),
        open_kafka(roles=roles, should_stop=lambda: request.is_made, **kafka) as config,
    ):
        compare = None if shadow is None else _comparison(config, shadow)
        asyncio.run(_run(config, access, host, port, interval_s, compare, shadow, lambda: request.is_made))


async def _run(
    config: KafkaConfig,
    access: Any,
    host: str,
    port: int,
    interval_s: float,
    compare: Callable[[], dict[str, Any]] | None,
    shadow: str | None,
    should_stop: Callable[[], bool],
) -> None:
    from streams.dashboard.feed import Feed  # noqa: PLC0415
    from streams.dashboard.server import make_app, serve  # noqa: PLC0415
    from streams.top.model import TopModel  # noqa: PLC0415

    feed = Feed(partial(TopModel, config), interval_s=interval_s)
    app = make_app(config, feed, access, compare=compare, shadow=shadow)
    await serve(app, host=host, port=port, should_stop=should_stop, say=lambda url: say(f"hotstream dashboard: {url}"))


def _comparison(config: KafkaConfig, shadow: str) -> Callable[[], dict[str, Any]]:
    """Reads both hot sets, as `hotstream compare` does; checks the rights now."""
    from streams.assignments.comparison import compare_prefixes  # noqa: PLC0415
    from streams.clients.admin import require_partitions  # noqa: PLC0415
    from streams.clients.rights import require_rights  # noqa: PLC0415
    from streams.topics import Topics  # noqa: PLC0415

    other = replace(config, prefix=Topics(config.prefix).shadow(shadow).prefix)
    require_rights(other, ["compare"])
    partitions = require_partitions(config, Topics(config.prefix).clicks)
    return partial(compare_prefixes, config, other, partitions, records=10, top=10)
