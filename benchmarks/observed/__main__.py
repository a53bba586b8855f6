"""`python -m benchmarks.observed`: rows a second with and without metrics ports, a scraper, and a dashboard.

The runs take turns. In each, the log lies in Kafka already, and agent and trainer work on it at full speed. Its rate is
that of the trainer's own reports, from the first fifth of the rows on.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median

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


@click.command()
@click.option("--rows", type=click.IntRange(1000), default=120_000, show_default=True)
@click.option("--turns", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "json_path", metavar="PATH", help="Write the report as JSON to PATH.")
def command(rows: int, turns: int, json_path: str | None) -> None:
    """Measure agent and trainer alone and observed, in turn; exit 1 if they are more than 2 % slower when observed."""
    report = Report("observed")
    rates: dict[str, list[float]] = {"alone": [], "metrics": [], "metrics and dashboard": []}
    with tempfile.TemporaryDirectory(prefix="hotstream-observed-") as name, ExitStack() as stack:
        folder, lines = Path(name), stack.enter_context(ProgressLines())
        broker = stack.enter_context(run_broker("apache"))
        log = folder / "log.tsv"
        lines.state = "generating the log"
        _run(folder, broker.bootstrap_servers, "generate", [str(log), "--rows", str(rows)])
        for turn in range(turns):
            for number, how in enumerate(rates):
                kafka = KafkaConfig(bootstrap_servers=broker.bootstrap_servers, prefix=f"observed-{turn}-{number}")
                lines.state = f"turn {turn + 1} of {turns}: {how}"
                rates[how].append(_measure(folder, kafka, log, rows, how))
    ratios = {how: round(median(rates["alone"]) / median(rates[how]), 4) for how in rates}
    is_fine = max(ratios.values()) <= _MOST
    rounded = {how: [round(rate, 1) for rate in measured] for how, measured in rates.items()}
    report.finish(json_path, ok=is_fine, rows=rows, rows_per_s=rounded, slower=ratios)
    click.echo(f"rows/s: {rounded}; times slower: {ratios}")
    sys.exit(0 if is_fine else 1)


def _run(folder: Path, servers: str, name: str, arguments: list[str]) -> None:
    with Children(folder, {"KAFKA_BOOTSTRAP_SERVERS": servers}) as children:
        children.start(name, [name, *arguments])
        while name not in children.check():
            time.sleep(0.1)


def _measure(folder: Path, kafka: KafkaConfig, log: Path, rows: int, how: str) -> float:
    """Rows a second that the trainer trains."""
    create_topics(kafka, Topics(kafka.prefix).specs(click_partitions=2, shards=_SHARDS))
    where = ["--prefix", kafka.prefix]
    _run(folder, kafka.bootstrap_servers, "replay", [str(log), "--schema", "criteo-kaggle", *where])
    ports = {"agent": free_port(), "train": free_port()} if how != "alone" else {}
    capacity = ["--capacity", str(_CAPACITY)]
    starts = {
        "agent": ["agent", *capacity, "--group", kafka.prefix, *where],
        "train": ["train", *capacity, "--limit", str(rows), *where],
    }
    with Children(folder, {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}) as children, ExitStack() as stack:
        if how == "metrics and dashboard":
            page = free_port()
            children.start("dashboard", ["dashboard", "--port", str(page), *where])
            stack.enter_context(_reading(f"http://127.0.0.1:{page}/events", 0.5))  # an open page
        for name, arguments in starts.items():
            port = ports.get(name)
            children.start(name, [*arguments, *(["--metrics-port", str(port)] if port else [])])
            if port:
                stack.enter_context(_reading(f"http://127.0.0.1:{port}/metrics", _SCRAPE_S))
        return _rate(kafka, children, rows)


def _rate(kafka: KafkaConfig, children: Children, rows: int) -> float:
    """The trainer's rows a second, by its own reports.

    Raises:
        RuntimeError: it has trained nothing for three minutes.
    """
    reader = TopicReader(kafka, Topics(kafka.prefix).metrics)
    seen: list[tuple[int, int]] = []
    moved_s, is_over = time.monotonic(), False
    try:
        while not is_over:
            is_over = "train" in children.check()
            for records in reader.poll(100).values():
                for record in records:
                    metrics = decode_metrics(record.value)
                    if isinstance(metrics, TrainerMetrics) and rows / 5 <= metrics.rows:
                        seen.append((metrics.time_ms, metrics.rows))
                        moved_s = time.monotonic()
            if time.monotonic() - moved_s > _STALL_S:
                raise RuntimeError(f"nothing was trained for {_STALL_S:.0f} s")
    finally:
        reader.close()
    whole = [(time_ms, done) for time_ms, done in seen if done < rows]
    (begin_ms, first), (end_ms, last) = whole[0], whole[-1]
    return (last - first) / (end_ms - begin_ms) * 1000


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
