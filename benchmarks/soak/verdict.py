"""The verdict over a soak: what may grow, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.soak.samples import Samples, slope_per_minute

__all__ = ["judge"]

_MIB_PER_MINUTE = 1.0
_BROKER_MIB = 1200.0  # heap of 512 MiB, and what a JVM needs beside it
_MORE_FILES = 8
_LAG_S = 5.0
_RATE_SHARE = 0.98


def judge(
    samples: Samples, *, warm_up_s: float, rate_rows_s: float, batch_rows: int, shards: int
) -> tuple[dict[str, Any], list[str]]:
    """The figures after the warm-up, and a line for each that is out of its bounds.

    - The resident memory of a Python process grows by at most 1 MiB a minute; the broker has at most 1,200 MiB.
    - No process but the broker, whose log gets more segments, has over 8 more open files in the last third than in the
      one before.
    - Nine tenths of the time, what waits in a topic is worth less than 5 s of clicks.
    - Rows are trained at the rate at which they are replayed.
    """
    growth = {name: slope_per_minute(points, from_s=warm_up_s) for name, points in samples.rss_mib.items()}
    figures: dict[str, Any] = {
        "rss_mib": {name: _summary(points, warm_up_s) for name, points in samples.rss_mib.items()},
        "rss_mib_per_minute": {name: round(slope, 3) for name, slope in growth.items()},
        "open_files": {name: _summary(points, warm_up_s) for name, points in samples.open_files.items()},
        "cores": {name: round(slope_per_minute(points, from_s=warm_up_s) / 60, 3)
                  for name, points in samples.cpu_s.items()},
        "lag": {name: _summary(points, warm_up_s) for name, points in samples.lag.items()},
        "latency_ms": {name: _summary(points, warm_up_s) for name, points in samples.latency_ms.items()},
        "load_average": _summary(samples.load, warm_up_s),
        "rows_per_s": round(slope_per_minute(samples.rows, from_s=warm_up_s) / 60, 1),
    }  # fmt: skip
    problems = [
        f"{name}: memory grows by {slope:.2f} MiB a minute, expected at most {_MIB_PER_MINUTE}"
        for name, slope in growth.items()
        if name != "broker" and slope > _MIB_PER_MINUTE
    ]
    if (most := figures["rss_mib"]["broker"]["max"]) > _BROKER_MIB:
        problems.append(f"broker: {most:.0f} MiB, expected at most {_BROKER_MIB:.0f}")
    problems += _judge_files(samples.open_files)
    problems += _judge_lag(figures["lag"], rate_rows_s / batch_rows, shards)
    if figures["rows_per_s"] < _RATE_SHARE * rate_rows_s:
        problems.append(f"trained: {figures['rows_per_s']} rows/s, expected the {rate_rows_s} that are replayed")
    return figures, problems


def _judge_files(open_files: Mapping[str, list[tuple[float, float]]]) -> list[str]:
    problems = []
    for name, points in open_files.items():
        values = [value for _, value in points]
        third = len(values) // 3
        before, after = max(values[third : 2 * third], default=0), max(values[2 * third :], default=0)
        if name != "broker" and third and after > before + _MORE_FILES:
            problems.append(f"{name}: {after:.0f} open files in the last third, {before:.0f} in the one before")
    return problems


def _judge_lag(lag: Mapping[str, Mapping[str, float]], records_s: float, shards: int) -> list[str]:
    bounds = {"clicks": _LAG_S * records_s, "importance": _LAG_S * records_s * shards}
    return [
        f"{name}: p90 of {lag[name]['p90']:.0f} records wait, expected at most {most:.0f}"
        for name, most in bounds.items()
        if lag[name]["p90"] > most
    ]


def _summary(points: list[tuple[float, float]], from_s: float) -> dict[str, float]:
    values = [value for second, value in points if second >= from_s] or [0.0]
    quantiles = {"p50": np.quantile(values, 0.5), "p90": np.quantile(values, 0.9), "max": max(values)}
    return {
        "first": values[0],
        **{name: round(float(value), 2) for name, value in quantiles.items()},
        "last": values[-1],
    }
