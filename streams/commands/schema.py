"""`hotstream schema infer|check`."""

from __future__ import annotations

import shlex
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np

from streams.cli.options import max_bad_option
from streams.cli.reports import Report, json_option
from streams.errors import ConfigError
from streams.escapes import escape
from streams.keys import format_key
from streams.logs.bad_lines import BadLines
from streams.logs.inference import infer_schema
from streams.logs.locations import find_logs
from streams.logs.log_rows import LogRows
from streams.logs.reader import read_log
from streams.logs.sample import take_sample
from streams.logs.schema import LogSchema, load_schema
from streams.records import no_more

__all__ = ["command"]

_CHECKED_LINES = 10_000


@click.group(short_help="Write and try the schema of a click log.")
def command() -> None:
    """Write and try the schema of a click log: docs/schema.md describes the file."""


@command.command()
@click.argument("file")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write it there.  [default: shown]")
def infer(file: str, out: Path | None) -> None:
    """Write the schema of FILE from its first 1000 rows; read it over before you use it.

    \b
        hotstream schema infer impressions.csv.gz --out log.toml
        hotstream schema check impressions.csv.gz --schema log.toml
    """
    text = infer_schema(take_sample(find_logs([file])[0]))
    if out is None:
        click.echo(text, nl=False)
        return
    if out.exists():
        raise ConfigError(f"--out {out}: exists already; name another file")
    out.write_text(text, encoding="utf-8")
    for note in text.splitlines()[1:]:
        if note.startswith("#"):
            click.echo(note.removeprefix("# "), err=True)
    load_schema(str(out))
    click.echo(f"written to {out}; next: hotstream schema check {shlex.quote(file)} --schema {out}", err=True)


@command.command()
@click.argument("file")
@click.option("--schema", "schema_name", default="criteo-kaggle", show_default=True, help="As `hotstream replay`.")
@click.option("--rows", type=click.IntRange(1), default=3, show_default=True, help="Number of rows to show.")
@max_bad_option
@json_option
def check(file: str, schema_name: str, rows: int, max_bad: float, json_path: str | None) -> None:
    """Show the first rows of FILE as the schema reads them, and the malformed ones of its first 10,000 lines."""
    report, schema, bad_lines = Report("schema check"), load_schema(schema_name), BadLines()
    shown: list[dict[str, Any]] = []
    log = find_logs([file])[0]
    for block in islice(read_log(log, schema, _CHECKED_LINES), 1):
        parsed = block.parse()
        bad_lines.add(parsed, log.name)
        shown = [_describe(parsed, row, schema) for row in range(min(rows, parsed.batch.num_rows))]
    for row in shown:
        click.echo("  ".join(f"{name} {value}" for name, value in row.items()), err=json_path == "-")
    click.echo(f"{bad_lines.num_lines} lines read, {bad_lines.num_bad} malformed", err=True)
    for line in bad_lines.describe():
        click.echo(f"  {line}", err=True)
    ok = bool(bad_lines.num_lines) and bad_lines.share <= max_bad
    lines = {"read": bad_lines.num_lines, "bad": bad_lines.num_bad, "reasons": bad_lines.reasons()}
    report.finish(json_path, ok=ok, lines=lines, rows=shown, fields=len(schema.categorical))
    bad_lines.require_few(max_bad)


def _describe(rows: LogRows, row: int, schema: LogSchema) -> dict[str, Any]:
    """A row as the schema reads it."""
    batch = rows.batch
    single = {"line": int(rows.lines[row])}
    if batch.label is not None:
        single["label"] = int(batch.label[row])
    if batch.weight is not None:
        single["weight"] = float(batch.weight[row])  # type: ignore[assignment]
    time = {} if schema.time is None else {"time": f"{np.datetime64(int(batch.event_time_ms[row]), 'ms')}"}
    numbers = [float(str(number)) for number in batch.dense[row]]  # 0.9, not the float32 nearest to it
    dense = dict(zip(map(escape, schema.dense), numbers, strict=True))
    own = (no_more(batch.num_rows) if batch.more is None else batch.more).between(row, row + 1)
    words, _ = own.to_bags(batch.keys[row : row + 1])
    weights = own.weights_of_bags(None if batch.key_weights is None else batch.key_weights[row : row + 1])
    factors = [""] * len(words) if weights is None else [f"*{weight:g}" for weight in weights]
    keys = " ".join(
        format_key(int(word), schema.categorical) + factor for word, factor in zip(words, factors, strict=True)
    )
    return {**single, **time, **dense, "keys": keys}
