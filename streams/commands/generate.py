"""`hotstream generate`: a Criteo-like click log of any size."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import click

from streams.cli.progress import show_progress
from streams.cli.reports import Report, json_option
from streams.generator import Generator, GeneratorConfig
from streams.generator.files import ENDINGS, open_writer

__all__ = ["command"]

logger = logging.getLogger(__name__)

_BLOCK_ROWS = 16_384


@click.command("generate", epilog=f"OUT ends in one of: {', '.join(ENDINGS)}.")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--rows", type=click.IntRange(min=1), required=True, metavar="ROWS", help="Number of rows to write.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of tokens, rows and the teacher."
)
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True),
    default=7.0,
    show_default=True,
    metavar="DAYS",
    help="Number of days of drift that the rows span.",
)
@click.option(
    "--scale", type=float, default=1.0, show_default=True, metavar="X", help="Factor on Criteo's cardinalities."
)
@click.option(
    "--drift",
    type=float,
    default=1.0,
    show_default=True,
    metavar="X",
    help="Factor on the fitted drift; with 0 popularity is constant.",
)
@click.option(
    "--rotate-at",
    metavar="ROW",
    type=click.IntRange(min=0),
    help="Row from which the values that receive half of the lookups have new identities.  [default: never]",
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
    """Write a Criteo-like click log to OUT, with the columns of the Kaggle file.

    Popularity, missing values and counts are fitted to the real log; a hidden teacher model gives the click
    probabilities. The same options give the same bytes.
    """
    report = Report("generate")
    config = GeneratorConfig(
        seed=seed, rows_per_day=max(1.0, rows / days), scale=scale, drift=drift, rotate_at=rotate_at
    )
    generator = Generator(config)
    started_s = time.monotonic()
    num_written = num_clicks = 0
    with open_writer(out) as writer, show_progress("generate") as show:
        for block in generator.blocks(rows, _BLOCK_ROWS):
            writer.write(block)
            num_clicks += int(block.label.sum())
            num_written += len(block.label)
            rate = num_written / max(time.monotonic() - started_s, 1e-9)
            show(num_written, rows, f"{num_written:,} rows, {rate:,.0f} rows/s")
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
