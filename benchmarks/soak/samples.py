"""Samples of running processes from `/proc`, and of what they report, over time."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from streams.telemetry.latency import LatencyHistogram
from streams.telemetry.observer import Observer

__all__ = ["Samples", "slope_per_minute"]

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_S = os.sysconf("SC_CLK_TCK")
Series = dict[str, list[tuple[float, float]]]


class Samples:
    """Series of (seconds since the start, value), by name.

    Attributes:
        rss_mib: resident memory in MiB, by process.
        open_files: open file descriptors, by process.
        cpu_s: processor seconds used, by process.
        lag: records that wait, by topic.
        latency_ms: of the changes since the last sample, by quantile.
        rows: rows trained so far.
        load: the machine's processes that run or want to, which explains a lag.
    """

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self.rss_mib: Series = defaultdict(list)
        self.open_files: Series = defaultdict(list)
        self.cpu_s: Series = defaultdict(list)
        self.lag: Series = defaultdict(list)
        self.latency_ms: Series = defaultdict(list)
        self.rows: list[tuple[float, float]] = []
        self.load: list[tuple[float, float]] = []

    def take(self, pids: Mapping[str, int], observer: Observer, importance_ends: Mapping[int, int]) -> None:
        """Adds a sample.

        Args:
            pids: process ids by name.
            observer: follows the topics.
            importance_ends: the present end of each shard's importance.
        """
        now_s = time.monotonic() - self._started_s
        for name, pid in pids.items():
            with suppress(OSError):  # it ended just now
                self._take_process(now_s, name, Path("/proc") / str(pid))
        shards = observer.shards
        waiting = sum(end - shards[number].next_offset for number, end in importance_ends.items() if number in shards)
        self.lag["importance"].append((now_s, float(waiting)))
        self.lag["assignments"].append((now_s, float(observer.num_behind)))
        if observer.trainer is not None:
            self.lag["clicks"].append((now_s, float(observer.trainer.lag_records)))
        for name, quantile in observer.latency.summary().items():
            if quantile is not None:
                self.latency_ms[name].append((now_s, quantile))
        observer.latency = LatencyHistogram()
        self.load.append((now_s, os.getloadavg()[0]))
        self.rows.append((now_s, float(observer.rows_trained)))

    def _take_process(self, now_s: float, name: str, process: Path) -> None:
        pages = int((process / "statm").read_text().split()[1])
        columns = (process / "stat").read_text().rpartition(")")[2].split()
        self.rss_mib[name].append((now_s, pages * _PAGE_BYTES / 2**20))
        self.open_files[name].append((now_s, float(len(list((process / "fd").iterdir())))))
        self.cpu_s[name].append((now_s, (int(columns[11]) + int(columns[12])) / _TICKS_S))


def slope_per_minute(points: list[tuple[float, float]], *, from_s: float) -> float:
    """The growth per minute of the least-squares line through the points from `from_s` on; 0 for fewer than two."""
    kept = np.array([point for point in points if point[0] >= from_s])
    if len(kept) < 2:
        return 0.0
    return float(np.polyfit(kept[:, 0] / 60, kept[:, 1], 1)[0])
