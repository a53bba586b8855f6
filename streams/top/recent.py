"""`RecentChanges`: how many changes the last minute had, and how late they were."""

from __future__ import annotations

import numpy as np

__all__ = ["RecentChanges"]

_NONE_MS = -1


class RecentChanges:
    """The times and latencies of the changes of the last while. Memory: 16 bytes a change.

    Args:
        window_ms: how long a change counts.

    >>> recent = RecentChanges(window_ms=1000)
    >>> for time_ms, latency_ms in ((5000, 10), (5500, None), (5600, 30)):
    ...     recent.add(time_ms, latency_ms)
    >>> recent.forget(5900), recent.latency_ms(50, 99)
    (3, (20.0, 29.8))
    >>> recent.forget(6550), recent.latency_ms(50)
    (1, (30.0,))
    >>> recent.forget(9000), recent.latency_ms(50)
    (0, None)
    """

    def __init__(self, window_ms: int = 60_000) -> None:
        self._window_ms = window_ms
        self._new: list[tuple[int, int]] = []
        self._known = np.zeros((0, 2), np.int64)  # time, latency

    def add(self, time_ms: int, latency_ms: int | None) -> None:
        """Takes a change; None if its latency is not known."""
        self._new.append((time_ms, _NONE_MS if latency_ms is None else max(0, latency_ms)))

    def forget(self, now_ms: int) -> int:
        """Forgets what is older than the window; returns the number of changes that are not."""
        known = np.concatenate([self._known, np.array(self._new, np.int64).reshape(-1, 2)])
        self._known, self._new = known[now_ms - known[:, 0] <= self._window_ms], []
        return len(self._known)

    def latency_ms(self, *percents: float) -> tuple[float, ...] | None:
        """These percentiles of the latencies that `forget` has left; None without one."""
        latency_ms = self._known[:, 1]
        latency_ms = latency_ms[latency_ms != _NONE_MS]
        if not len(latency_ms):
            return None
        return tuple(round(float(value), 3) for value in np.percentile(latency_ms, percents))
