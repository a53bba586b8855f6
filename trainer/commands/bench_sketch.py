"""`hotstream bench sketch`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import xxhash
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import Progress

from sketch.bench.benchmark import (
    PAPER_BYTES,
    Stream,
    measure_frequent_items,
    measure_guarantees,
    measure_recall,
    measure_speed,
    streams,
    zipf_ranks,
)
from sketch.bench.table import draw, markdown
from sketch.hashing import Keys
from streams.cli.reports import Report, json_option

__all__ = ["command"]

_BUCKETS = (13_505, 1 << 16, 1 << 18, 1 << 20, 1 << 22)
_QUICK_BUCKETS = (1 << 10, 1 << 12)
_PLAIN_WIDTH = 200  # of a file or a pipe


def _read_tokens(folder: Path) -> Keys:
    """Every word of every file below the folder, in the order of the paths: (K,) uint64."""
    hashes: dict[bytes, int] = {}
    found: list[int] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for word in re.findall(rb"\w+", path.read_bytes()):
            if word not in hashes:
                hashes[word] = xxhash.xxh3_64_intdigest(word) >> 8 | 4 << 56
            found.append(hashes[word])
    return np.array(found, np.uint64)


def _runs(ranks: Keys, ks: tuple[int, ...], shard_counts: tuple[int, ...], tokens: Keys | None) -> list[Any]:
    """(stream, arguments of `measure_recall`) of every row of the recall table."""
    runs: list[Any] = []
    for k in ks:
        with_text = [] if tokens is None else [Stream("tokens", tokens)]
        for stream in [*streams(ranks, k), *with_text]:
            runs += [(stream, {"k": k}), (stream, {"k": k, "admission": "replace_min"})]
            if stream.name == "stationary":
                for shards in shard_counts[1:]:
                    runs += [(stream, {"k": k, "shards": shards, "in_event_time": timed}) for timed in (False, True)]
                runs.append((stream, {"k": k, "bytes_per_row": 4 * PAPER_BYTES}))
    return runs


@click.command()
@click.option("--keys", "num_keys", type=click.IntRange(10_000), help="Keys of each stream.  [default: 10,000,000]")
@click.option("--quick", is_flag=True, help="A hundredth of everything: does it run, not how fast is it.")
@click.option("--best-of", type=click.IntRange(1, 100), default=5, show_default=True, help="Repetitions for speed.")
@click.option(
    "--tokens",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Also recall on the words of all files in this folder.",
)
@click.option("--guarantees/--no-guarantees", default=True, help="The paper's bounds beside what is held.")
@click.option("--speed/--no-speed", default=True, help="Keys a second.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for sketch.json, sketch.md and sketch.png.",
)
@json_option
def command(
    num_keys: int | None,
    quick: bool,
    best_of: int,
    tokens: Path | None,
    guarantees: bool,
    speed: bool,
    out: Path | None,
    json_path: str | None,
) -> None:
    """Measure HotSketch and HotSet: speed beside the machine's limit, recall, churn, guarantees.

    Speed is of one thread, best of several runs. The limit is one read-modify-write of a uniformly random line a key,
    hashed and prefetched as the sketch does; the second limit touches the very lines that the stream's keys fall on.
    Recall is in the memory of the paper, 48 bytes a row, where no other is named.
    """
    report = Report("bench sketch")
    num_keys = num_keys or (100_000 if quick else 10_000_000)
    ks, shard_counts = ((135, 655), (1, 4)) if quick else ((13_505, 65_536), (1, 4, 16))
    console = Console(stderr=True)
    content: dict[str, Any] = {"keys": num_keys, "exponent": 1.05, "speed": [], "recall": [], "guarantees": []}
    with Progress(console=console, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("drawing keys", total=None)
        ranks = zipf_ranks(num_keys, 337_625) if quick else zipf_ranks(num_keys)
        stationary = ranks | np.uint64(1 << 56)
        if speed:
            for buckets in _QUICK_BUCKETS if quick else _BUCKETS:
                progress.update(task, description=f"speed, {buckets:,} buckets")
                content["speed"] += measure_speed(stationary, buckets, times=1 if quick else best_of)
            rate = measure_frequent_items(stationary, 17)
            if rate is not None:
                content["frequent_items_per_s"] = rate
        runs = _runs(ranks, ks, shard_counts, _read_tokens(tokens) if tokens else None)
        progress.update(task, total=sum(len(stream.keys) for stream, _ in runs), completed=0)
        for stream, arguments in runs:
            progress.update(task, description=f"recall, {stream.name}, {arguments['k']:,}")
            row = measure_recall(stream, **arguments, tick=lambda count: progress.advance(task, count))
            content["recall"].append(row)
        if guarantees:
            progress.update(task, description="guarantees")
            small = {"num_buckets": 1000, "num_ids": 10_000} if quick else {}
            content["guarantees"] = list(measure_guarantees(min(num_keys, 5_000_000), **small))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "sketch.md").write_text(markdown(content))
        draw(content, out / "sketch.png")
        report.finish(str(out / "sketch.json"), ok=True, **content)
    wide = None if sys.stdout.isatty() else _PLAIN_WIDTH
    Console(stderr=json_path == "-", width=wide).print(Markdown(markdown(content)))
    report.finish(json_path, ok=True, **content)
