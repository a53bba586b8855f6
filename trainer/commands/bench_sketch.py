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
from streams.cli.progress import show_progress
from streams.cli.reports import Report, json_option

__all__ = ["command"]

_BUCKETS = (13_505, 1 << 16, 1 << 18, 1 << 20, 1 << 22)
_QUICK_BUCKETS = (1 << 10, 1 << 12)
_PLAIN_WIDTH = 200  # columns, if standard output is a file or a pipe


def _read_tokens(folder: Path) -> Keys:
    """Returns the keys (K,) uint64 of all words of all files below the folder, in the order of the paths."""
    hashes: dict[bytes, int] = {}
    keys: list[int] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for word in re.findall(rb"\w+", path.read_bytes()):
            if word not in hashes:
                hashes[word] = xxhash.xxh3_64_intdigest(word) >> 8 | 4 << 56
            keys.append(hashes[word])
    return np.array(keys, np.uint64)


def _runs(ranks: Keys, ks: tuple[int, ...], shard_counts: tuple[int, ...], tokens: Keys | None) -> list[Any]:
    """Returns (stream, arguments of `measure_recall`) for each row of the recall table."""
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
@click.option("--keys", "num_keys", type=click.IntRange(10_000), help="Keys per stream.  [default: 10,000,000]")
@click.option(
    "--quick", is_flag=True, help="Use a hundredth of the keys and small sketches, to test that the benchmark runs."
)
@click.option(
    "--best-of",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    help="Runs per speed measurement; the fastest counts.",
)
@click.option(
    "--tokens",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Measure recall also on the words of all files in this folder.",
)
@click.option("--guarantees/--no-guarantees", default=True, help="Measure the counts against the paper's error bounds.")
@click.option("--speed/--no-speed", default=True, help="Measure speed in keys per second.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of sketch.json, sketch.md and sketch.png.",
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
    """Measure HotSketch and HotSet: speed against the hardware limit, recall, churn and error bounds.

    Speed is that of one thread, the best of several runs. The first limit reads, modifies and writes one uniformly
    random cache line per key, hashed and prefetched as in the sketch; the second one uses the cache lines of the
    stream's keys. Recall is measured in the memory of the paper, 48 bytes per row, unless a row of the table names
    another size.
    """
    report = Report("bench sketch")
    num_keys = num_keys or (100_000 if quick else 10_000_000)
    ks, shard_counts = ((135, 655), (1, 4)) if quick else ((13_505, 65_536), (1, 4, 16))
    content: dict[str, Any] = {"keys": num_keys, "exponent": 1.05, "speed": [], "recall": [], "guarantees": []}
    with show_progress("bench sketch") as draw_progress:
        draw_progress(0, None, "sampling keys")
        ranks = zipf_ranks(num_keys, 337_625) if quick else zipf_ranks(num_keys)
        stationary = ranks | np.uint64(1 << 56)
        if speed:
            for buckets in _QUICK_BUCKETS if quick else _BUCKETS:
                draw_progress(0, None, f"speed, {buckets:,} buckets")
                content["speed"] += measure_speed(stationary, buckets, times=1 if quick else best_of)
            frequent_items_per_s = measure_frequent_items(stationary, 17)
            if frequent_items_per_s is not None:
                content["frequent_items_per_s"] = frequent_items_per_s
        runs = _runs(ranks, ks, shard_counts, _read_tokens(tokens) if tokens else None)
        total = sum(len(stream.keys) for stream, _ in runs)
        completed = 0
        for stream, arguments in runs:
            description = f"recall, {stream.name}, {arguments['k']:,}"

            def advance(count: int, description: str = description) -> None:
                nonlocal completed
                completed += count
                draw_progress(completed, total, description)

            content["recall"].append(measure_recall(stream, **arguments, tick=advance))
        if guarantees:
            draw_progress(completed, total, "error bounds")
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
