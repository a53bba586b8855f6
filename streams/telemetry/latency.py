"""A latency histogram of constant size: counts in logarithmic bins."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["LatencyHistogram"]

_BINS_PER_OCTAVE = 16
_NUM_BINS = 30 * _BINS_PER_OCTAVE  # 1 ms to 2^30 ms
_MOST_LOG2_MS = 17  # of the bounds for Prometheus


class LatencyHistogram:
    """Counts latencies in logarithmic bins 4.4 % wide, from 1 ms to 2^30 ms.

    The relative error of a quantile is at most about 2 %. Latencies below 1 ms share the first bin.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_NUM_BINS, np.int64)
        self._sum_ms = 0.0

    def add(self, milliseconds: npt.ArrayLike) -> None:
        """Counts one latency or an array of latencies, in ms; negative ones (of clocks that differ) count as 0."""
        values = np.maximum(np.atleast_1d(np.asarray(milliseconds, np.float64)), 0.0)
        self._sum_ms += float(values.sum())
        values = np.maximum(values, 1.0)
        bins = np.minimum((np.log2(values) * _BINS_PER_OCTAVE).astype(np.int64), _NUM_BINS - 1)
        np.add.at(self._counts, bins, 1)

    def add_one(self, milliseconds: float) -> None:
        """As `add`, for one latency; about a microsecond."""
        value = max(milliseconds, 0.0)
        self._sum_ms += value
        self._counts[min(int(math.log2(max(value, 1.0)) * _BINS_PER_OCTAVE), _NUM_BINS - 1)] += 1

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts up to 2 ms, 4 ms, ... 131 s and infinity, by the bound in seconds; the sum in seconds."""
        reached = np.cumsum(self._counts)
        bounds = [
            (f"{2.0**octave / 1000:g}", float(reached[octave * _BINS_PER_OCTAVE - 1]))
            for octave in range(1, _MOST_LOG2_MS + 1)
        ]
        return [*bounds, ("+Inf", float(reached[-1]))], self._sum_ms / 1000

    @property
    def count(self) -> int:
        """The number of latencies counted."""
        return int(self._counts.sum())

    def quantile(self, share: float) -> float | None:
        """The latency in ms that a `share` (0 to 1) of all latencies do not exceed; None if none was counted."""
        if self.count == 0:
            return None
        reached = np.searchsorted(np.cumsum(self._counts), share * self.count)
        return round(float(2 ** ((min(int(reached), _NUM_BINS - 1) + 0.5) / _BINS_PER_OCTAVE)), 2)

    def summary(self) -> dict[str, float | None]:
        """`{"p50": ms, "p99": ms}`, for reports."""
        return {"p50": self.quantile(0.5), "p99": self.quantile(0.99)}
