"""`Rate`: how fast a counter of reports grows, over several reports, because what it counts may come in bursts."""

from __future__ import annotations

from collections import deque

__all__ = ["Rate"]


class Rate:
    """The growth of a counter per second over the last reports.

    The time between the first report and the last is the window at least, as far as reports reach: with a shorter
    one the rate of bursts would jump. After a silence of three windows the rate begins again.

    Args:
        window_ms: how far back.

    >>> rate = Rate(window_ms=10_000)
    >>> for time_ms, count in ((0, 0), (5000, 500), (10_001, 500), (15_002, 1400), (60_000, 1500), (61_000, 800)):
    ...     rate.add(time_ms, count)
    ...     print(rate.per_s and round(rate.per_s))
    None
    100
    50
    90
    None
    None
    """

    def __init__(self, window_ms: int = 20_000) -> None:
        self._window_ms = window_ms
        self._reports: deque[tuple[int, int]] = deque()

    def add(self, time_ms: int, count: int) -> None:
        """Takes a report; one with an earlier time or a smaller count is of another process, and begins again."""
        reports = self._reports
        if reports and (time_ms < reports[-1][0] or count < reports[-1][1]):
            reports.clear()
        reports.append((time_ms, count))
        while len(reports) > 2 and time_ms - reports[1][0] >= self._window_ms:
            reports.popleft()
        if time_ms - reports[0][0] > 3 * self._window_ms:
            reports.popleft()

    @property
    def per_s(self) -> float | None:
        """The rate; None before the second report of the window."""
        (first_ms, before), (last_ms, count) = self._reports[0], self._reports[-1]
        return (count - before) * 1000 / (last_ms - first_ms) if last_ms > first_ms else None
