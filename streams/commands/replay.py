"""`hotstream replay`: click logs into the clicks topic, resumably."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from streams.cli.options import kafka_options, open_kafka
from streams.cli.reports import Report, json_option
from streams.cli.stop_request import StopRequest
from streams.logs.schema import load_schema
from streams.replay.sender import ReplayCounts, ReplayPlan, replay_logs

__all__ = ["command"]

logger = logging.getLogger(__name__)
_LOG_INTERVAL_S = 5.0


@contextmanager
def _progress() -> Iterator[Callable[[ReplayCounts], None]]:
    """Shows how far the replay is: a bar on a terminal, a line every 5 s elsewhere."""
    if sys.stderr.isatty():
        columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task, started_s = bar.add_task("", total=None), time.monotonic()

            def draw(counts: ReplayCounts) -> None:
                rate = counts.sent / max(time.monotonic() - started_s, 1e-9)
                said = f"{counts.sent:,} rows, {rate:,.0f} rows/s" + (f", {counts.bad:,} bad" if counts.bad else "")
                bar.update(task, total=counts.bytes_total, completed=counts.bytes_read, description=said)

            yield draw
        return
    last_s, last_sent = time.monotonic(), 0

    def log(counts: ReplayCounts) -> None:
        nonlocal last_s, last_sent
        now_s = time.monotonic()
        if now_s - last_s >= _LOG_INTERVAL_S:
            rate, share = (counts.sent - last_sent) / (now_s - last_s), counts.bytes_read / max(counts.bytes_total, 1)
            logger.info("%d rows sent, %.0f rows/s, %d bad, %.0f %%", counts.sent, rate, counts.bad, 100 * share)
            last_s, last_sent = now_s, counts.sent

    yield log


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--schema",
    "schema_name",
    default="criteo-kaggle",
    show_default=True,
    help="criteo-kaggle, criteo-terabyte, avazu, or a .toml file that names the columns.",
)
@click.option("--rate", type=float, metavar="ROWS/S", help="Rows a second.  [default: as fast as possible]")
@click.option("--speedup", type=float, metavar="X", help="The log's own pace times X; needs a time column.")
@click.option("--limit", type=int, metavar="ROWS", help="Stop after so many lines, from the first file's first.")
@click.option("--loop", is_flag=True, help="Begin again after the last file.")
@click.option("--batch-rows", type=int, default=2048, show_default=True, help="Lines a record.")
@click.option("--resume", is_flag=True, help="Go on where the same replay stopped, every row once.")
@kafka_options
@json_option
def command(
    files: tuple[Path, ...],
    schema_name: str,
    rate: float | None,
    speedup: float | None,
    limit: int | None,
    loop: bool,
    batch_rows: int,
    resume: bool,
    json_path: str | None,
    **kafka: Any,
) -> None:
    """Send click logs to the clicks topic: plain, gzip, zstd or Parquet, in the order given.

    Lines that hold no row go to the dead letters (`hotstream dlq show clicks`) and are counted. Ctrl-C and SIGTERM
    stop between two batches; --resume with the same files and options goes on there, and also after a crash.

    \b
        hotstream replay train.txt.gz --rate 20000
        hotstream replay day_0.gz day_1.gz --schema criteo-terabyte --resume
        hotstream replay avazu.csv --schema avazu --speedup 600
    """
    report, request = Report("replay"), StopRequest()
    plan = ReplayPlan(
        paths=files,
        schema=load_schema(schema_name),
        batch_rows=batch_rows,
        rate_rows_s=rate,
        speedup=speedup,
        limit_rows=limit,
        loop=loop,
        resume=resume,
    )
    plan.check_files()  # before --broker starts one
    with open_kafka(**kafka) as config:
        started_s = time.perf_counter()
        with request.listening(), _progress() as show:
            counts = replay_logs(config, plan, should_stop=lambda: request.signal is not None, on_progress=show)
        seconds = time.perf_counter() - started_s
    rows = {"read": counts.read, "sent": counts.sent, "bad": counts.bad, "skipped": counts.skipped}
    said = ", ".join(f"{number} {name}" for name, number in rows.items())
    click.echo(f"rows: {said}; {counts.sent / seconds:,.0f} rows/s", err=True)
    report.finish(
        json_path,
        ok=request.signal is None,
        rows=rows,
        batches=counts.batches,
        rows_per_s=round(counts.sent / seconds, 1),
        files=[str(path) for path in files],
        resumed=counts.resumed,
    )
    if counts.bad:
        click.echo(f"{counts.bad} lines held no row; see `hotstream dlq show clicks`", err=True)
    if request.signal is not None:
        click.echo("stopped; run the same command with --resume to go on", err=True)
        raise click.exceptions.Exit(128 + request.signal)
