"""`hotstream generate`: a Criteo-like click log of any size."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streams.cli.reports import Report, json_option
from streams.generator import Generator, GeneratorConfig, RowBlock
from streams.generator.files import ENDINGS, open_writer

__all__ = ["command"]

logger = logging.getLogger(__name__)

_BLOCK_ROWS = 16_384
_LOG_INTERVAL_S = 5.0


def _with_progress(blocks: Iterator[RowBlock], num_rows: int) -> Iterator[RowBlock]:
    """The same blocks; on a terminal a bar follows them, elsewhere a log line every few seconds."""
    console = Console(stderr=True)
    columns = (
        TextColumn("generate"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f} rows/s"),
        TimeRemainingColumn(),
    )
    started_s = logged_s = time.monotonic()
    done_rows = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("generate", total=num_rows, rate=0.0)
        for block in blocks:
            yield block
            done_rows += len(block.label)
            now_s = time.monotonic()
            rate = done_rows / max(now_s - started_s, 1e-9)
            progress.update(task, completed=done_rows, rate=rate)
            if not console.is_terminal and now_s - logged_s >= _LOG_INTERVAL_S:
                logged_s = now_s
                logger.info("%d of %d rows, %.0f rows/s", done_rows, num_rows, rate)


@click.command("generate", epilog=f"OUT ends in one of: {', '.join(ENDINGS)}.")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--rows", type=click.IntRange(min=1), required=True, help="Rows to write.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, another world.")
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True),
    default=7.0,
    show_default=True,
    help="Days of drift that the rows span.",
)
@click.option("--scale", type=float, default=1.0, show_default=True, help="Multiplies Criteo's cardinalities.")
@click.option("--drift", type=float, default=1.0, show_default=True, help="Multiplies the fitted drift; 0: none.")
@click.option(
    "--rotate-at",
    metavar="ROW",
    type=click.IntRange(min=0),
    help="From this row on, the values that take half of the lookups have new identities.",
)
@json_option
def command(
    out: Path,
    rows: int,
    seed: int,
    days: float,
    scale: float,
    drift: float,
    rotate_at: int | None,
    json_path: str | None,
) -> None:
    """Write ROWS rows of a Criteo-like click log to OUT, in the Kaggle file's format.

    Popularity, missing values and counts are fitted to the real log; a hidden teacher draws the labels.
    The same options give the same bytes.
    """
    report = Report("generate")
    config = GeneratorConfig(
        seed=seed, rows_per_day=max(1.0, rows / days), scale=scale, drift=drift, rotate_at=rotate_at
    )
    generator = Generator(config)
    started_s = time.monotonic()
    num_clicks = 0
    with open_writer(out) as writer:
        for block in _with_progress(generator.blocks(rows, _BLOCK_ROWS), rows):
            writer.write(block)
            num_clicks += int(block.label.sum())
    rate = rows / (time.monotonic() - started_s)
    logger.info("%s: %d rows, click rate %.4f, %.0f rows/s", out, rows, num_clicks / rows, rate)
    report.finish(
        json_path,
        ok=True,
        file=str(out),
        bytes=out.stat().st_size,
        rows=rows,
        click_rate=num_clicks / rows,
        rows_per_s=rate,
        config={"seed": seed, "days": days, "scale": scale, "drift": drift, "rotate_at": rotate_at},
    )
