"""`hotstream compare`: the hot set of the running agents beside that of a shadow."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from typing import Any

import click
from rich import markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streams.assignments.comparison import compare_prefixes
from streams.cli.options import kafka_options, open_kafka
from streams.cli.reports import Report, json_option
from streams.clients.admin import require_partitions
from streams.clients.rights import require_rights
from streams.escapes import escape
from streams.topics import Topics

__all__ = ["command"]


@click.command(short_help="Compare the hot set with that of a shadow.")
@click.argument("shadow", metavar="NAME")
@click.option(
    "--clicks",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    metavar="RECORDS",
    help="Newest click records of each partition for which to count the lookups that hot features serve.",
)
@click.option(
    "--top", type=click.IntRange(0), default=10, show_default=True, help="Features to name that only one of them has."
)
@kafka_options
@json_option
def command(shadow: str, clicks: int, top: int, json_path: str | None, **kafka: Any) -> None:
    """Compare the present hot set with that of the shadow NAME (`hotstream agent --shadow NAME`).

    It shows how many features both have, how often each changes, which share of recent lookups each serves from unique
    rows, and features that only one of them has: those that had the best scores when they became hot.
    """
    report = Report("compare")
    with open_kafka(roles=["compare"], **kafka) as config:
        other = replace(config, prefix=Topics(config.prefix).shadow(shadow).prefix)
        require_rights(other, ["compare"])
        partitions = require_partitions(config, Topics(config.prefix).clicks)
        figures = compare_prefixes(config, other, partitions, records=clicks, top=top)
    console = Console(stderr=json_path == "-", highlight=False)
    console.print(_figures_table(figures, config.prefix, shadow))
    console.print(_features_table(figures, shadow))
    report.finish(json_path, ok=True, shadow=shadow, **figures)


def _figures_table(figures: Any, prefix: str, shadow: str) -> Table:
    table = Table("", markup.escape(prefix), f"shadow {markup.escape(escape(shadow))}", box=None)
    table.add_row("hot features", *(f"{count:,}" for count in figures["hot"]))
    table.add_row("in both", f"{figures['in_both']:,}", _percent(figures["overlap"]) + " of the smaller one")
    table.add_row("changes per million events", *(_number(rate) for rate in figures["changes_per_million_events"]))
    table.add_row("lookups served by hot features", *(_percent(share) for share in figures["lookups_served"]))
    return table


def _features_table(figures: Any, shadow: str) -> Table:
    table = Table("only here", "score then", f"only in shadow {markup.escape(escape(shadow))}", "score then", box=None)
    for pair in zip_longest(*figures["only_in_one"]):
        cells = [("", "") if one is None else (escape(one["feature"]), _number(one["score"])) for one in pair]
        table.add_row(*(Text(cell) for cell in (*cells[0], *cells[1])))
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:,.4g}"
