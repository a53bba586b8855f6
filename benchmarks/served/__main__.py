"""`python -m benchmarks.served`: trained to served at half load, and the step with publishing against that without.

Publishing is bounded (`--publish-bytes`), and the most changed rows go first, so two delays are told apart. `last` is
from the end of the last step that a shown row is of; `first` from the first step of it that the replica had not seen,
with the wait for its turn. Rows that wait when the measurement ends are the backlog, and in neither.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from benchmarks.chaos.progress_lines import ProgressLines
from benchmarks.served.arrivals import delays_of, quantiles
from benchmarks.served.site import measure_rate, watch
from benchmarks.served.steps import measure_steps
from streams.broker import run_broker
from streams.cli.reports import Report
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.topics import Topics
from trainer.bench.feed import NUM_SHARDS

__all__ = ["command"]

_MOST_S, _MOST_RATIO = 1.0, 1.03  # the goals
_ROWS = 2048  # of a step


@click.command()
@click.option("--rows", type=click.IntRange(1000), default=100_000, show_default=True, help="At full load.")
@click.option("--seconds", type=click.FloatRange(1), default=60.0, show_default=True, help="At half load.")
@click.option("--warm", "warm_s", type=float, default=10.0, show_default=True, help="Seconds before that.")
@click.option("--capacity", type=click.IntRange(100), default=20_000, show_default=True)
@click.option("--publish-bytes", type=click.IntRange(1000), default=2_000_000, show_default=True, help="A second.")
@click.option("--turns", type=click.IntRange(1), default=16, show_default=True, help="Pairs of blocks of steps.")
@click.option("--block", type=click.IntRange(1), default=16, show_default=True, help="Steps of a block.")
@click.option("--json", "json_path", metavar="PATH", help="Write the report as JSON to PATH.")
def command(rows: int, seconds: float, warm_s: float, capacity: int, publish_bytes: int, turns: int, block: int,
            json_path: str | None) -> None:  # fmt: skip
    """Measure both; exit 1 if a goal is missed."""
    report = Report("served")
    with tempfile.TemporaryDirectory(prefix="hotstream-served-") as name, ExitStack() as stack:
        folder, lines = Path(name), stack.enter_context(ProgressLines())
        logging.basicConfig(filename=folder / "harness.txt", level=logging.WARNING)
        servers = stack.enter_context(run_broker("apache")).bootstrap_servers
        lines.state = "steps with and without publishing"
        kafka = KafkaConfig(bootstrap_servers=servers, prefix="steps")
        create_topics(kafka, [Topics(kafka.prefix).embeddings_spec(shards=NUM_SHARDS)])
        times = measure_steps(
            kafka, rows=_ROWS, capacity=capacity, bytes_per_s=publish_bytes, turns=turns, block=block
        ).summarise()  # fmt: skip
        lines.state = f"generating {rows} rows"
        log, more = (folder / f"{which}.tsv" for which in ("full", "half"))
        _generate(log, rows, folder)
        lines.state = "full load"
        kafka = KafkaConfig(bootstrap_servers=servers, prefix="full")
        rate = measure_rate(kafka, folder, log, rows=rows * 9 // 10, capacity=capacity, published=publish_bytes)
        _generate(more, round(rate / 2 * (seconds + warm_s + 90)), folder)
        lines.state = f"half load, {rate / 2:.0f} rows/s"
        kafka = KafkaConfig(bootstrap_servers=servers, prefix="half")
        steps, arrivals, from_ns = watch(
            kafka, folder, more, rate=rate / 2, warm_s=warm_s, seconds=seconds, capacity=capacity,
            published=publish_bytes,
        )  # fmt: skip
        delays = {how: quantiles(found) for how, found in delays_of(steps, arrivals.seen, from_ns).items()}
    counted = [one for one in steps if one.ended_ns >= from_ns]
    took_s = (counted[-1].ended_ns - counted[0].ended_ns) / 1e9
    figures: dict[str, Any] = {
        "full_rows_per_s": round(rate, 1),
        "half_rows_per_s": round((counted[-1].rows - counted[0].rows) / took_s, 1),
        "trained_to_served": delays,
        "block_records": arrivals.num_blocks,
        "step": times,
    }
    goals = {
        f"trained to served, p99 of `last`, within {_MOST_S:g} s": delays["last"].get("p99_s", 1e9) <= _MOST_S,
        f"a step with publishing takes at most {_MOST_RATIO} of one without": times["wall_ratio"] <= _MOST_RATIO,
    }
    config = {"rows": rows, "seconds": seconds, "capacity": capacity, "publish_bytes": publish_bytes,
              "turns": turns, "block": block}  # fmt: skip
    report.finish(json_path, ok=all(goals.values()), goals=goals, config=config, **figures)
    click.echo(f"{figures}; {goals}")
    sys.exit(0 if all(goals.values()) else 1)


def _generate(path: Path, rows: int, folder: Path) -> None:
    with (folder / "generate.log").open("wb") as file:
        command = [sys.executable, "-m", "trainer", "generate", str(path), "--rows", str(rows)]
        subprocess.run(command, stdout=file, stderr=file, check=True)


if __name__ == "__main__":
    command()
