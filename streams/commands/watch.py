"""`hotstream watch`."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streams.assignments.reader import AssignmentReader
from streams.assignments.reader_figures import ReaderFigures
from streams.assignments.values import read_values
from streams.cli.log_lines import log_options, say
from streams.cli.metrics_options import metrics_options
from streams.cli.options import kafka_options, open_kafka
from streams.cli.reports import Report, json_option
from streams.cli.stop_request import StopRequest
from streams.escapes import escape
from streams.records import Assignment
from streams.telemetry.latency import LatencyHistogram
from streams.telemetry.monitor import open_monitor

__all__ = ["command"]

_BEST = 4  # features shown of a field
_TABLE_S = 1.0  # between two tables as JSON
_COLOURS = {"hot": "bold red", "cold": "blue"}


@click.command(short_help="Print the changes of the hot set as they are published.")
@click.option(
    "--table", "show_table", is_flag=True, help="Show the hot set by field and update it, instead of the changes."
)
@click.option(
    "--from-beginning/--from-now",
    default=True,
    show_default=True,
    help="Read the whole topic first, or new changes only.",
)
@click.option("--until-end", is_flag=True, help="Stop at the end that the topic has at the start of the command.")
@click.option(
    "--as-of",
    "moment",
    metavar="MOMENT",
    help="Stop at this moment; with --table, show the hot set as it stood then. PARTITION:OFFSET,... or a time, such "
    "as 2026-11-27T09:30 (UTC). Exact as far as compaction has not reached.",
)
@click.option(
    "--values", "shows_values", is_flag=True, help="Show values beside hashes, as `hotstream values` published them."
)
@click.option("--limit", type=click.IntRange(1), metavar="CHANGES", help="Stop after this number of changes.")
@click.option(
    "--format",
    "line_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of a change; with --table, json prints the table as one object a line when it has changed.",
)
@kafka_options
@metrics_options
@log_options
@json_option
def command(
    show_table: bool,
    from_beginning: bool,
    until_end: bool,
    moment: str | None,
    shows_values: bool,
    limit: int | None,
    line_format: str,
    metrics_port: int | None,
    metrics_host: str,
    json_path: str | None,
    **kafka: Any,
) -> None:
    """Print the changes of the hot set as they are published, one per line: tier, feature, row, score, shard and seq.

    With --table it shows the current hot set by field, until Ctrl-C, or once with --until-end. The command compares the
    table it has read with the digests that the agent publishes; the final report gives the result.
    """
    request = StopRequest()
    watcher = _Watcher(Console(stderr=json_path == "-", highlight=False), line_format, shows_table=show_table)
    report = Report("watch")
    if moment is not None and not from_beginning:
        raise click.UsageError("--as-of and --from-now: got both, expected one of them")
    roles = ["subscribe", "names"] if shows_values else ["subscribe"]
    with (
        request.listening(),
        open_kafka(roles=roles, should_stop=lambda: request.is_made, **kafka) as config,
        open_monitor("watch", port=metrics_port, host=metrics_host) as monitor,
        AssignmentReader(config, from_beginning=from_beginning) as reader,
    ):
        watcher.values = read_values(config) if shows_values else {}
        figures = ReaderFigures(reader, watcher.tiers, watcher.latency)
        figures.watch(monitor, config)
        ends = reader.end_offsets() if until_end else None
        if moment is not None:
            ends = reader.stop_at(moment)
        if ends is None:
            watcher.say_when_the_table_comes()
        with Live(console=watcher.console, auto_refresh=False, transient=not watcher.is_live) as live:
            while not request.is_made and (limit is None or watcher.num_changes < limit):
                watcher.take(reader, show_changes=not show_table, limit=limit)
                figures.note()
                watcher.draw(live)
                if ends is not None and all(reader.positions()[shard] >= end for shard, end in ends.items()):
                    break
        watcher.draw_last()
        ok = reader.table.history.verified is not False
        summary = watcher.summary(reader)
        report.finish(json_path, ok=ok, **summary)
        verdict = {True: "equal to the agent's", False: "not verified yet", None: "partial (--from-now)"}
        counts = f"{watcher.num_changes:,} changes; {summary['hot']:,} hot"
        say(f"hotstream: {counts}; the table is {verdict[summary['verified']]}")
    if not ok:
        say("hotstream: the table differs from the agent's: a digest differs", logging.ERROR)
        raise click.exceptions.Exit(1)


class _Watcher:
    """Prints changes, or draws the table, and collects the figures of the report."""

    def __init__(self, console: Console, line_format: str, *, shows_table: bool = False) -> None:
        self.console = console
        self.is_live = shows_table and line_format == "text" and console.is_terminal
        self._shows_table = shows_table
        self.features: dict[int, Assignment] = {}
        self.values: dict[int, str] = {}  # key -> value
        self.num_changes = 0
        self._line_format = line_format
        self.latency = LatencyHistogram()
        self.tiers: Counter[str] = Counter()
        self._printed_changes, self._printed_s = -1, -_TABLE_S

    def take(self, reader: AssignmentReader, *, show_changes: bool, limit: int | None) -> None:
        """Processes the records that one poll returns."""
        for change, _ in reader.poll():
            if not isinstance(change, Assignment) or (limit is not None and self.num_changes >= limit):
                continue
            self.num_changes += 1
            self.tiers[change.tier] += 1
            if change.ingest_ms is not None:
                self.latency.add(time.time() * 1000 - change.ingest_ms)
            named = self._named(change)
            self.features.pop(change.key, None)
            if change.tier != "cold":
                self.features[change.key] = named
            if show_changes:
                self._print(named, named.feature or "")

    def _named(self, change: Assignment) -> Assignment:
        """The change, with the value of its feature beside the hash, if it is known."""
        value = self.values.get(change.key)
        return change if value is None else replace(change, feature=f"{change.feature} ({value})")

    def _print(self, change: Assignment, feature: str) -> None:
        if self._line_format == "json":
            content = {"feature": feature, "tier": change.tier, "row": change.row, "score": change.score}
            click.echo(json.dumps({**content, "shard": change.shard, "epoch": change.epoch, "seq": change.seq}))
            return
        row = "-" if change.row is None else str(change.row)
        score = "-" if change.score is None else f"{change.score:.4g}"
        line = f"{escape(feature):<28} row {row:>8}  score {score:>10}  shard {change.shard} seq {change.seq}"
        if sys.stdout.isatty():
            # A `Text`, not markup: brackets in a name are no commands.
            self.console.print(Text.assemble((f"{change.tier:<5}", _COLOURS[change.tier]), " ", line), soft_wrap=True)
        else:
            click.echo(f"{change.tier:<5} {line}", err=self.console.stderr)

    def say_when_the_table_comes(self) -> None:
        """Tells who reads a table of text from a pipe that it comes at the end."""
        if self._shows_table and self._line_format == "text" and not self.is_live:
            say("hotstream: the table comes when this ends, by Ctrl-C; --until-end prints that of now")

    def draw(self, live: Live) -> None:
        """Shows the table as it is now, on a terminal or as JSON."""
        if self.is_live:
            live.update(_field_table(self.features), refresh=True)
        elif self._shows_table and self._line_format == "json":
            self._print_table()

    def draw_last(self) -> None:
        """Prints the table where it was not drawn."""
        if self._shows_table and self._line_format == "json":
            self._print_table(is_last=True)
        elif self._shows_table and not self.is_live:
            self.console.print(_field_table(self.features))

    def _print_table(self, *, is_last: bool = False) -> None:
        """Prints the hot set by field as a line of JSON, if it has changed since the last line a second ago or more."""
        now_s = time.monotonic()
        if self.num_changes == self._printed_changes or (now_s - self._printed_s < _TABLE_S and not is_last):
            return
        self._printed_changes, self._printed_s = self.num_changes, now_s
        table = {"hot": len(self.features), "fields": [_field_as_json(*one) for one in _by_field(self.features)]}
        click.echo(json.dumps(table), err=self.console.stderr)

    def summary(self, reader: AssignmentReader) -> dict[str, Any]:
        """The content of the report."""
        shards = [
            {"epoch": view.epoch, "seq": view.seq, "stale": view.num_stale, "verified_seq": view.verified_seq,
             "digest": f"{view.table.digest:016x}", "hot": view.table.num_hot,
             "mismatches": view.mismatches}
            for view in reader.table.shards
        ]  # fmt: skip
        return {
            "changes": {"total": self.num_changes, **self.tiers},
            "hot": reader.table.num_hot,
            "verified": reader.table.is_verified if reader.is_whole else None,
            "bad_records": reader.num_bad,
            "latency_ms": {"event_to_assignment": self.latency.summary()},
            "shards": shards,
        }


def _field_table(features: dict[int, Assignment]) -> Table:
    """The hot set by field: the number of hot features, and those that had the best scores when they became hot.

    The topic has no later score of a feature, so these are not the best of now.
    """
    table = Table("field", "hot", "scores when they became hot", box=None)
    for name, changes in _by_field(features):
        best = "  ".join(
            f"{(change.feature or '').partition(':')[2]} {change.score or 0:.3g}" for change in changes[:_BEST]
        )
        table.add_row(Text(escape(name)), str(len(changes)), Text(escape(best)))
    return table


def _field_as_json(name: str, changes: list[Assignment]) -> dict[str, object]:
    best = [{"feature": change.feature, "score": change.score, "row": change.row} for change in changes[:_BEST]]
    return {"field": name, "hot": len(changes), "best": best}


def _by_field(features: dict[int, Assignment]) -> list[tuple[str, list[Assignment]]]:
    """The fields with their hot features, best score first."""
    fields: dict[str, list[Assignment]] = {}
    for change in features.values():
        fields.setdefault((change.feature or "?").partition(":")[0], []).append(change)
    names = sorted(fields, key=lambda name: (len(name), name))
    return [(name, sorted(fields[name], key=lambda change: -(change.score or 0))) for name in names]
