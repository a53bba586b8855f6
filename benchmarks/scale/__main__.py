"""`python -m benchmarks.scale`: what a large system needs, by process and topic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from benchmarks.scale.estimate import Line, System, estimate
from benchmarks.scale.simulation import Simulated, simulate
from streams.cli.reports import Report

__all__ = ["command"]


@click.command()
@click.option("--rows-per-s", type=float, default=1e6, show_default=True, help="Clicks a second.")
@click.option("--fields", type=click.IntRange(1, 255), default=26, show_default=True)
@click.option("--features", type=float, default=1e9, show_default=True, help="Distinct features.")
@click.option("--capacity", type=float, default=1e8, show_default=True, help="Hot rows.")
@click.option("--dim", type=click.IntRange(1), default=16, show_default=True)
@click.option("--record-rows", type=click.IntRange(1, 8192), default=8192, show_default=True)
@click.option("--shards", type=click.IntRange(1), default=128, show_default=True)
@click.option("--replication", type=click.IntRange(1), default=3, show_default=True)
@click.option("--simulated", type=int, multiple=True, default=(1000, 10_000, 100_000), show_default=True,
              help="Hot rows of a simulation; may be repeated, smallest first.")  # fmt: skip
@click.option("--json", "json_path", metavar="PATH", help="Write the report as JSON to PATH.")
def command(
    rows_per_s: float, fields: int, features: float, capacity: float, dim: int, record_rows: int, shards: int,
    replication: int, simulated: tuple[int, ...], json_path: str | None,
) -> None:  # fmt: skip
    """Simulate small hot sets with the same share of hot features, and multiply measured figures up."""
    report, console = Report("scale"), Console(stderr=True)
    system = System(
        rows_per_s=rows_per_s, fields=fields, features=int(features), capacity=int(capacity), dim=dim,
        record_rows=record_rows, shards=shards, replication=replication,
    )  # fmt: skip
    share, runs = features / capacity, list[Simulated]()
    for rows in simulated:
        console.print(f"simulates {rows:,} hot rows of {int(rows * share):,} features")
        runs.append(simulate(int(rows * share), rows, fields, seed=1))
        console.print(_describe(runs[-1]))
    lines = estimate(system, runs)
    Console().print(_table(lines))
    report.finish(
        json_path, ok=True, system=asdict(system), simulated=[asdict(run) for run in runs],
        lines=[asdict(line) for line in lines],
    )  # fmt: skip


def _describe(run: Simulated) -> str:
    return (
        f"  {run.hit_share:.1%} of the lookups hot (in hindsight {run.best_share:.1%}), "
        f"{run.changes_per_event * 1e6:,.0f} changes per million features counted, "
        f"{run.bytes_per_row:.0f} bytes a row, {run.events_per_s / 1e6:.0f} M events/s"
    )


def _table(lines: Sequence[Line]) -> Table:
    table = Table(box=None)
    for name in ("what", "figure", "from"):
        table.add_column(name)
    for line in lines:
        table.add_row(line.what, f"{_number(line.value)} {line.unit}", line.source)
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    command()
