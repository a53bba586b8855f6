"""`python -m benchmarks.soak`: the whole pipeline at a steady rate, with figures over time, a picture and a verdict."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.chaos.progress_lines import ProgressLines
from benchmarks.chaos.site import Site, SiteConfig
from benchmarks.soak.picture import draw_soak
from benchmarks.soak.samples import Samples
from benchmarks.soak.verdict import judge
from streams.cli.reports import Report
from streams.clients.partition_reader import open_partition_log

__all__ = ["command"]

_SAMPLE_S = 2.0
_START_S = 120.0


@click.command()
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True)
@click.option("--rate", type=click.IntRange(1), default=600, show_default=True, help="Rows replayed per second.")
@click.option("--agents", type=click.IntRange(1, 3), default=2, show_default=True)
@click.option("--shards", type=click.IntRange(1), default=4, show_default=True)
@click.option("--capacity", type=click.IntRange(1), default=2000, show_default=True, help="Hot rows.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--json", "json_path", metavar="PATH", help="Write the report to PATH, and the picture beside it.")
def command(
    minutes: float, rate: int, agents: int, shards: int, capacity: int, seed: int, json_path: str | None
) -> None:
    """Run the pipeline for so long and judge its memory, open files, lag and rate; exit 1 if one is out of bounds."""
    report = Report("soak")
    with tempfile.TemporaryDirectory(prefix="hotstream-soak-") as folder, ProgressLines() as lines:
        logging.basicConfig(filename=Path(folder) / "harness.txt", level=logging.WARNING)
        config = SiteConfig(
            folder=Path(folder),
            rows=int(minutes * 60 * rate) + 30 * rate,
            seed=seed,
            rate_rows_s=rate,
            shards=shards,
            capacity=capacity,
            half_life=1_000_000,
        )
        with Site(config, lines) as site:
            samples = run(site, minutes, agents)
            problems = site.find_faults()
    warm_up_s = min(120.0, minutes * 20)
    figures, found = judge(samples, warm_up_s=warm_up_s, rate_rows_s=rate, batch_rows=config.batch_rows, shards=shards)
    problems += found
    settings = {"minutes": minutes, "rate_rows_s": rate, "agents": agents, "shards": shards, "capacity": capacity,
                "batch_rows": config.batch_rows, "seed": seed, "warm_up_s": warm_up_s}  # fmt: skip
    report.finish(json_path, ok=not problems, problems=problems, config=settings, **figures)
    if json_path is not None:
        title = f"{minutes:g} minutes, {rate} rows/s, {agents} agents, {capacity} hot features"
        draw_soak(Path(json_path).with_suffix(".png"), samples, title=title, warm_up_s=warm_up_s)
    for problem in problems:
        click.echo(f"PROBLEM  {problem}")
    growth = ", ".join(f"{name} {slope:+.2f}" for name, slope in figures["rss_mib_per_minute"].items())
    click.echo(f"{figures['rows_per_s']} rows/s trained; memory in MiB a minute: {growth}; {len(problems)} problems")
    sys.exit(1 if problems else 0)


def run(site: Site, minutes: float, agents: int) -> Samples:
    """Starts everything, and samples it for so long."""
    observer = site.observer
    site.scale(agents)
    site.start("train")
    is_ready = site.wait_until(
        lambda: len(observer.shards) == site.config.shards and observer.trainer is not None, stall_s=_START_S
    )
    if not is_ready:
        raise RuntimeError(f"agents and trainer were not ready within {_START_S:.0f} s")
    site.start("replay")
    samples, until_s = Samples(), time.monotonic() + minutes * 60
    with open_partition_log(site.kafka) as log:
        while time.monotonic() < until_s:
            site.wait(_SAMPLE_S)
            bounds = log.all_bounds(site.topics.importance, site.config.shards)
            pids = {name: process.pid for name, process in site.processes.items() if process.pid is not None}
            pids.update({"broker": site.broker.pid, "subscriber": os.getpid()})
            samples.take(pids, observer, {number: end for number, (_, end) in enumerate(bounds)})
    return samples


if __name__ == "__main__":
    command()
