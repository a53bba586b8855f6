"""How fast to send: a fixed rate of rows, the log's own pace times a factor, or no waiting at all."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Pacer"]

_MAX_NAP_S = 0.1
_MAX_BACKLOG_S = 1.0


class Pacer:
    """Says when the next batch is due, and waits for it.

    With a rate, batches are due at even distances; after a stall at most one second of rows is made up for. With a
    speedup, a batch is due when its last event has happened, counted from the first batch's; rows that share one
    coarse time (Avazu's hours) come in a burst.

    Args:
        rate_rows_s: rows a second, or None.
        speedup: seconds of event time a second, or None.
        clock: seconds that never go back.
        sleep: waits so many seconds.
        should_stop: asked at least every tenth of a second of waiting.
    """

    def __init__(
        self,
        *,
        rate_rows_s: float | None = None,
        speedup: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rate_rows_s = rate_rows_s
        self._speedup = speedup
        self._clock = clock
        self._sleep = sleep
        self._should_stop = should_stop
        self._due_s: float | None = None
        self._start: tuple[float, int] | None = None  # clock and event time of the first batch

    def wait(self, rows: int, event_time_ms: int) -> bool:
        """Returns when a batch of `rows`, the last of which happened at `event_time_ms`, is due; False: to stop."""
        due_s = self._due(rows, event_time_ms)
        while not self._should_stop():
            left_s = due_s - self._clock()
            if left_s <= 0:
                return True
            self._sleep(min(left_s, _MAX_NAP_S))
        return False

    def _due(self, rows: int, event_time_ms: int) -> float:
        now_s = self._clock()
        if self._rate_rows_s is not None:
            due_s = now_s if self._due_s is None else max(self._due_s, now_s - _MAX_BACKLOG_S)
            self._due_s = due_s + rows / self._rate_rows_s
            return due_s
        if self._speedup is not None:
            self._start = self._start or (now_s, event_time_ms)
            return self._start[0] + (event_time_ms - self._start[1]) / 1000 / self._speedup
        return now_s
