"""`hotstream top`."""

from __future__ import annotations

import sys
from typing import Any

import click

from streams.cli.options import kafka_options, open_kafka
from streams.cli.stop_request import StopRequest

__all__ = ["command"]


@click.command("top", short_help="Show the hot set, agents and trainer live in the terminal.")
@click.option("--plain", is_flag=True, help="Print a line at each interval, as for a pipe.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.2),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two pictures or lines.",
)
@kafka_options
def command(plain: bool, interval_s: float, **kafka: Any) -> None:
    """Show live what the topics say: the hot features, the last changes, fields, shards, agents and trainer.

    \b
    1 2 3 4   features, changes, fields, shards
    /         filter: only rows with this text in their feature, such as C14: or C14:7e0c; Esc clears it
    s  n      search: go to the next row with this text
    space     pause;  arrows and PgUp/PgDn scroll;  ? help;  q quits

    Scores are those of the last change of a feature; the topic has no later ones. Without a terminal, and with
    --plain, it prints a line at each interval. NO_COLOR=1 turns colours off.
    """
    from streams.top.model import TopModel  # noqa: PLC0415

    request = StopRequest()
    with open_kafka(roles=["top"], should_stop=lambda: request.is_made, **kafka) as config:
        if plain or not sys.stdout.isatty():
            from streams.top.plain import print_lines  # noqa: PLC0415

            with request.listening(), TopModel(config) as model:
                print_lines(model, click.echo, interval_s=interval_s, should_stop=lambda: request.is_made)
            return
        from streams.top.app import TopApp  # noqa: PLC0415  Textual takes time to import

        title = f"hotstream top  {config.prefix} at {config.bootstrap_servers}"
        app = TopApp(lambda: TopModel(config), title=title, interval_s=interval_s)
        app.run()
        if app.error is not None:
            raise app.error
