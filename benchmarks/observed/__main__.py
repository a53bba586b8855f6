"""`python -m benchmarks.observed`: rows a second with and without metrics ports, a scraper, and a dashboard.

The runs take turns, each turn in the opposite order to the one before, until the time is over. In each run the log
lies in Kafka already, and agent and trainer work on it at full speed. Its rate is that of the trainer's own reports,
from the first fifth of the rows on; its processor seconds are those of the same time, by process. A ratio compares two
runs of one turn, so that a machine that grows slower meanwhile does not count.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.chaos.progress_lines import ProgressLines
from streams.broker import run_broker
from streams.broker.process import free_port
from streams.cli.reports import Report
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.topic_reader import TopicReader
from streams.processes.children import Children
from streams.records import TrainerMetrics, decode_metrics
from streams.topics import Topics

__all__ = ["command"]

_SHARDS, _CAPACITY = 2, 10_000
_SCRAPE_S = 5.0  # Prometheus's default is 15
_STALL_S = 180.0
_MOST = 1.02  # the goal: at most 2 % slower
_TICKS_S = os.sysconf("SC_CLK_TCK")
_ALONE = "alone"
_ARMS = (_ALONE, "metrics", "metrics and dashboard")


@dataclass(frozen=True)
class _Run:
    """What one run has shown.

    Attributes:
        rows_per_s: rows a second that the trainer has trained.
        cpu_ms: processor milliseconds for 1,000 rows, by process.
        dashboard_share: the dashboard's share of one processor; 0 without it.
    """

    rows_per_s: float
    cpu_ms: dict[str, float]
    dashboard_share: float


@click.command()
@click.option("--rows", type=click.IntRange(1000), default=100_000, show_default=True, help="Rows of each run.")
@click.option(
    "--minutes", type=click.FloatRange(0.0), default=7.0, show_default=True, help="Begin no turn that would end later."
)
@click.option("--json", "json_path", metavar="PATH", help="Write the report as JSON to PATH.")
def command(rows: int, minutes: float, json_path: str | None) -> None:
    """Measure agent and trainer alone and observed, in turn; exit 1 if they are more than 2 % slower when observed.

    The verdict is that of the median of the turns. At least one turn is run.
    """
    report = Report("observed")
    turns: list[dict[str, _Run]] = []
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hotstream-observed-") as name, ExitStack() as stack:
        folder, lines = Path(name), stack.enter_context(ProgressLines())
        broker = stack.enter_context(run_broker("apache"))
        log = folder / "log.tsv"
        lines.state = "generating the log"
        _run(folder, broker.bootstrap_servers, "generate", [str(log), "--rows", str(rows)])
        while not turns or (time.monotonic() - began_s) * (1 + 1 / len(turns)) <= minutes * 60:
            turn = {}
            for how in _ARMS if len(turns) % 2 == 0 else reversed(_ARMS):
                prefix = f"observed-{len(turns)}-{_ARMS.index(how)}"
                kafka = KafkaConfig(bootstrap_servers=broker.bootstrap_servers, prefix=prefix)
                lines.state = f"turn {len(turns) + 1}: {how}"
                turn[how] = _measure(folder, kafka, log, rows, how)
            turns.append(turn)
            click.echo("; ".join(f"{how}: {turn[how].rows_per_s:,.0f} rows/s" for how in _ARMS))
    figures = _summary(turns)
    is_fine = all(slower["median"] <= _MOST for slower in figures["slower"].values())
    report.finish(json_path, ok=is_fine, rows=rows, turns=len(turns), **figures)
    click.echo(_text(figures, len(turns)))
    sys.exit(0 if is_fine else 1)


def _summary(turns: Sequence[dict[str, _Run]]) -> dict[str, Any]:
    """Medians over the turns, with the least and the largest."""
    slower, more_cpu = {}, {}
    for how in _ARMS[1:]:
        slower[how] = _spread([turn[_ALONE].rows_per_s / turn[how].rows_per_s for turn in turns])
        cpu = [(sum(turn[how].cpu_ms.values()), sum(turn[_ALONE].cpu_ms.values())) for turn in turns]
        more_cpu[how] = _spread([observed / alone for observed, alone in cpu])
    cpu_ms = {
        how: {name: round(median(turn[how].cpu_ms[name] for turn in turns), 1) for name in turns[0][how].cpu_ms}
        for how in _ARMS
    }
    return {
        "rows_per_s": {how: [round(turn[how].rows_per_s, 1) for turn in turns] for how in _ARMS},
        "slower": slower,
        "more_cpu": more_cpu,
        "cpu_ms_per_1000_rows": cpu_ms,
        "dashboard_cpu_share": _spread([turn[_ARMS[-1]].dashboard_share for turn in turns]),
    }


def _spread(ratios: list[float]) -> dict[str, float]:
    return {"median": round(median(ratios), 4), "least": round(min(ratios), 4), "largest": round(max(ratios), 4)}


def _text(figures: dict[str, Any], num_turns: int) -> str:
    """The figures as lines."""
    lines = [f"median of {num_turns} turns (least to largest):"]
    for how in _ARMS[1:]:
        slower, cpu = figures["slower"][how], figures["more_cpu"][how]
        lines.append(
            f"  {how}: {slower['median']:.3f} times slower ({slower['least']:.3f} to {slower['largest']:.3f}), "
            f"{cpu['median']:.3f} times the processor time ({cpu['least']:.3f} to {cpu['largest']:.3f})"
        )
    lines.append(f"  the dashboard's share of one processor: {figures['dashboard_cpu_share']['median']:.1%}")
    lines += [f"  ms of processor for 1,000 rows, {how}: {ms}" for how, ms in figures["cpu_ms_per_1000_rows"].items()]
    return "\n".join(lines)


def _run(folder: Path, servers: str, name: str, arguments: list[str]) -> None:
    with Children(folder, {"KAFKA_BOOTSTRAP_SERVERS": servers}) as children:
        children.start(name, [name, *arguments])
        while name not in children.check():
            time.sleep(0.1)


def _measure(folder: Path, kafka: KafkaConfig, log: Path, rows: int, how: str) -> _Run:
    """What one run shows."""
    create_topics(kafka, Topics(kafka.prefix).specs(click_partitions=2, shards=_SHARDS))
    where = ["--prefix", kafka.prefix]
    _run(folder, kafka.bootstrap_servers, "replay", [str(log), "--schema", "criteo-kaggle", *where])
    ports = {"agent": free_port(), "train": free_port()} if how != _ALONE else {}
    capacity = ["--capacity", str(_CAPACITY)]
    starts = {
        "agent": ["agent", *capacity, "--group", kafka.prefix, *where],
        "train": ["train", *capacity, "--limit", str(rows), *where],
    }
    with Children(folder, {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}) as children, ExitStack() as stack:
        if how == _ARMS[-1]:
            page = free_port()
            children.start("dashboard", ["dashboard", "--port", str(page), *where])
            stack.enter_context(_reading(f"http://127.0.0.1:{page}/events", 0.5))  # an open page
        for name, arguments in starts.items():
            port = ports.get(name)
            children.start(name, [*arguments, *(["--metrics-port", str(port)] if port else [])])
            if port:
                stack.enter_context(_reading(f"http://127.0.0.1:{port}/metrics", _SCRAPE_S))
        return _observe(kafka, children, rows)


def _observe(kafka: KafkaConfig, children: Children, rows: int) -> _Run:
    """The trainer's rows a second, by its own reports, and what they cost.

    Raises:
        RuntimeError: it has trained nothing for three minutes.
    """
    reader = TopicReader(kafka, Topics(kafka.prefix).metrics)
    seen: list[tuple[int, int, dict[str, float]]] = []
    moved_s, is_over = time.monotonic(), False
    try:
        while not is_over:
            is_over = "train" in children.check()
            for records in reader.poll(100).values():
                for record in records:
                    metrics = decode_metrics(record.value)
                    if isinstance(metrics, TrainerMetrics) and rows / 5 <= metrics.rows < rows:
                        seen.append((metrics.time_ms, metrics.rows, _cpu_s(children)))
                        moved_s = time.monotonic()
            if time.monotonic() - moved_s > _STALL_S:
                raise RuntimeError(f"nothing was trained for {_STALL_S:.0f} s")
    finally:
        reader.close()
    (begin_ms, first, before), (end_ms, last, after) = seen[0], seen[-1]
    span_s, trained = (end_ms - begin_ms) / 1000, last - first
    used_s = {name: after[name] - before[name] for name in sorted(before)}
    return _Run(
        rows_per_s=trained / span_s,
        cpu_ms={name: cpu_s * 1e6 / trained for name, cpu_s in used_s.items()},
        dashboard_share=used_s.get("dashboard", 0.0) / span_s,
    )


def _cpu_s(children: Children) -> dict[str, float]:
    """The processor seconds of each child; of one that has ended: none."""
    used = {}
    for name, pid in children.pids().items():
        with suppress(OSError):
            columns = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
            used[name] = (int(columns[11]) + int(columns[12])) / _TICKS_S
    return used


@contextmanager
def _reading(url: str, every_s: float) -> Iterator[None]:
    """Reads what an address of this machine sends, to its end, again and again."""
    ended = threading.Event()

    def read() -> None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  it starts, or ends
            while not ended.is_set() and answer.readline():
                pass

    def repeat() -> None:
        while not ended.wait(every_s):
            read()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(10)


if __name__ == "__main__":
    command()
