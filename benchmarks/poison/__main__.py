"""`python -m benchmarks.poison`: malformed records for every topic of a running pipeline, and an audit of their effect.

clean run:     replay, trainer, two agents, subscriber             -> peak memory of each process
poisoned run:  the same, and N malformed records into each topic   -> dead letters, rows, table, peak memory
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.chaos.progress_lines import ProgressLines
from benchmarks.chaos.site import Site, SiteConfig
from benchmarks.poison.audit import find_differences, read_topic
from benchmarks.poison.mutations import mutate, mutate_headers
from streams.cli.reports import Report
from streams.clients.producer import RecordProducer
from streams.logs.schema import SCHEMAS
from streams.records import BadRecord, decode_assignment, decode_clicks, decode_importance

__all__ = ["command"]

_STALL_S = 120.0
_FIRST_COUNTED = 50  # importance records
_MOST_GROWTH_MIB = 100.0
_MOST_GOOD = 64  # records of each topic to mutate
_SCHEMA = SCHEMAS["criteo-kaggle"]
_BURST = 50  # records between two looks
Decode = Callable[[Any], Any]


@click.command()
@click.option("--records", type=click.IntRange(1), default=2000, show_default=True, help="Malformed records a topic.")
@click.option("--rows", type=click.IntRange(1), default=40_000, show_default=True, help="Rows of the click log.")
@click.option("--rate", type=click.IntRange(1), default=600, show_default=True, help="Rows replayed per second.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--json", "json_path", metavar="PATH", help="Write the report as JSON to PATH.")
def command(records: int, rows: int, rate: int, seed: int, json_path: str | None) -> None:
    """Send malformed records to clicks, importance, assignments and snapshots; exit 1 if they do any harm."""
    report = Report("poison")
    with ProgressLines() as lines:
        clean, problems = _run(lines, rows, rate, seed, 0)
        poisoned, found = _run(lines, rows, rate, seed, records)
    problems += found
    peaks = {"clean": clean["peak_mib"], "poisoned": poisoned["peak_mib"]}
    for name, mib in peaks["poisoned"].items():
        if mib > peaks["clean"][name] + _MOST_GROWTH_MIB:
            problems.append(f"{name}: peak {mib:.0f} MiB, {peaks['clean'][name]:.0f} MiB in the clean run")
    report.finish(
        json_path, ok=not problems, problems=problems, records=records, rows=rows, rate_rows_s=rate, seed=seed,
        peak_mib=peaks, letters=poisoned["letters"],
    )  # fmt: skip
    for problem in problems:
        click.echo(f"PROBLEM  {problem}")
    memory = ", ".join(f"{name} {mib:.0f} ({clean['peak_mib'][name]:.0f})" for name, mib in peaks["poisoned"].items())
    click.echo(f"letters {poisoned['letters']}; peak memory in MiB (clean run): {memory}; {len(problems)} problems")
    sys.exit(1 if problems else 0)


def _run(lines: ProgressLines, rows: int, rate: int, seed: int, records: int) -> tuple[dict[str, Any], list[str]]:
    """One run; returns its figures and its problems."""
    with tempfile.TemporaryDirectory(prefix="hotstream-poison-") as folder:
        logging.basicConfig(filename=Path(folder) / "harness.txt", level=logging.WARNING, force=True)
        config = SiteConfig(folder=Path(folder), rows=rows, seed=seed, rate_rows_s=rate, max_bad=1.0)
        with Site(config, lines) as site:
            sent, problems = _pass(site, records, seed)
            figures = {"peak_mib": _peaks(site)}
            for name in list(site.processes):
                site.end(name)
            letters, differences = find_differences(site, sent)
            return {**figures, "letters": letters}, [*problems, *differences, *site.find_faults()]


def _pass(site: Site, records: int, seed: int) -> tuple[dict[str, list[Any]], list[str]]:
    """Replays, trains and counts the log, with malformed records in between; returns these, and what went wrong."""
    observer, sent, problems = site.observer, dict[str, list[Any]](), list[str]()

    def require(what: str, is_true: Callable[[], bool]) -> None:
        if not site.wait_until(is_true, stall_s=_STALL_S):
            problems.append(f"{what}: nothing moved for {_STALL_S:.0f} s: {site.describe()}")

    site.scale(2)
    site.start("train")
    require("the start", lambda: len(observer.shards) == site.config.shards and observer.trainer is not None)
    site.start("replay")
    require("the first changes", lambda: observer.promotions > 0 and observer.counted > _FIRST_COUNTED)
    if records:
        sent = _poison(site, records, seed)
        site.scale(1)  # the other agent adopts shards whose snapshots are malformed
    require("the log", lambda: "replay" not in site.processes and observer.rows_trained == site.config.rows)
    require("counting", lambda: _has_counted_all(site))
    require("the subscriber", lambda: observer.reader.table.is_verified)
    return sent, problems


def _has_counted_all(site: Site) -> bool:
    site.wait(0.5)
    shards, ends = site.observer.shards, site.importance_ends()
    return all(number in shards and shards[number].next_offset == end for number, end in ends.items())


def _poison(site: Site, number: int, seed: int) -> dict[str, list[Any]]:
    """Sends so many malformed records to each topic; returns (partition, key, value) of those that need a letter."""
    topics, random = site.topics, np.random.default_rng(seed)
    decoders: dict[str, Decode | None] = {
        topics.clicks: lambda one: decode_clicks(one[1], one[2], fields=_SCHEMA.categorical, dense_names=_SCHEMA.dense),
        topics.importance: lambda one: decode_importance(one[1], one[2]),
        topics.assignments: lambda one: decode_assignment(*one),
        topics.snapshots: None,
    }
    sent: dict[str, list[Any]] = {topic: [] for topic, decode in decoders.items() if decode is not None}
    good = {topic: read_topic(site, topic)[:_MOST_GOOD] for topic in decoders}
    with RecordProducer(site.kafka) as producer:
        for index in range(number):
            for topic, decode in decoders.items():
                partition, record = _malformed(random, good[topic], decode)
                key, value, headers = record
                producer.send(topic, partition, value, headers, key=key)
                if decode is not None:
                    sent[topic].append((partition, key, value))
            if index % _BURST == 0:
                site.lines.state = f"{index} malformed records a topic"
                site.look()
    return sent


def _malformed(random: np.random.Generator, good: list[Any], decode: Decode | None) -> tuple[int, tuple[Any, Any, Any]]:
    """A mutation of one of these records that the topic's decoder refuses; of a snapshot any mutation."""
    while True:
        record = good[int(random.integers(0, len(good)))]
        key = record.key if record.key is None or random.integers(0, 4) else mutate(random, record.key)
        value = record.value if record.value is None else mutate(random, record.value)
        mutated = key, value, mutate_headers(random, record.headers)
        if decode is None or isinstance(decode(mutated), BadRecord):
            return record.partition, mutated


def _peaks(site: Site) -> dict[str, float]:
    """The peak of resident memory of each process, in MiB."""
    peaks = {}
    for name, process in site.processes.items():
        if process.pid is not None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peaks[name] = int(status.split("VmHWM:")[1].split()[0]) / 1024
    return peaks


if __name__ == "__main__":
    command()
