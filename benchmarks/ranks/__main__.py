"""`python -m benchmarks.ranks`: rows a second of steps in memory, in turns, each in processes of one thread.

Each rank trains batches of its own: N ranks of `--batch-rows` train N times as many rows in a step.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
from pathlib import Path

import click

from benchmarks.ranks.steps import measure

__all__ = ["command"]


@click.command()
@click.option("--world", "worlds", type=click.IntRange(1), multiple=True, default=(1, 2), show_default=True)
@click.option("--batch-rows", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=60, show_default=True)
@click.option("--shards", type=click.IntRange(1), default=8, show_default=True)
@click.option("--turns", type=click.IntRange(1), default=3, show_default=True)
def command(worlds: tuple[int, ...], batch_rows: int, steps: int, shards: int, turns: int) -> None:
    """Print the median rows a second of each, and its ratio to one process without ranks.

    Of several ranks twice: each step's keys travel when it begins, and while the step before it computes.
    """
    found: dict[tuple[int, bool], list[float]] = {}
    cases = [(0, False), *((world, ahead) for world in worlds for ahead in ((False, True) if world > 1 else (False,)))]
    with multiprocessing.get_context("spawn").Pool(max(worlds)) as pool, tempfile.TemporaryDirectory() as directory:
        for turn in range(turns):
            for world, ahead in cases:
                meet = str(Path(directory) / f"{turn}-{world}-{ahead}")
                tasks = [(world, rank, meet, batch_rows, steps, shards, ahead) for rank in range(max(world, 1))]
                found.setdefault((world, ahead), []).append(
                    min(pool.starmap_async(measure, tasks, chunksize=1).get(timeout=200))
                )
    alone = statistics.median(found[0, False])
    for (world, ahead), rates in found.items():
        name = f"{world} ranks{', keys ahead' if ahead else ''}" if world else "no ranks"
        rate = statistics.median(rates)
        click.echo(f"{name}: {rate:,.0f} rows/s, {rate / alone:.2f}x ({min(rates):,.0f} to {max(rates):,.0f})")


if __name__ == "__main__":
    command()
