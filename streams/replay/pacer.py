"""The pace of a replay: a fixed rate of rows, a multiple of the log's own pace, or no waiting."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np

from streams.event_clock import EventClock

__all__ = ["Pacer"]

logger = logging.getLogger(__name__)

_MAX_NAP_S = 0.1
_MAX_BACKLOG_S = 1.0
_MAX_JUMP_MS = 86_400_000
_LONG_WAIT_S = 10.0
_NOTICEABLE_WAIT_S = 0.02


class Pacer:
    """Waits until the next batch is due.

    With a rate, batches are due at even intervals; after a stall the pacer catches up by at most one second of rows.
    With a speedup, a batch is due at the time of its last event, relative to the first batch; rows that share one
    coarse time (Avazu's hours) are due together. A wrong time delays nothing: an event time more than a day from the
    newest one is an outlier (`streams.event_clock`), and a gap in the log counts as a day at most. A warning names the
    outliers, one each time their number doubles, and a line each wait of more than 10 s.

    Args:
        rate_rows_s: rows a second, or None.
        speedup: seconds of event time a second, or None.
        clock: monotonic time in seconds.
        sleep: waits for a number of seconds.
        should_stop: called at least ten times a second while waiting.
        before_wait: called before a wait of more than 20 ms.
    """

    def __init__(
        self,
        *,
        rate_rows_s: float | None = None,
        speedup: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        should_stop: Callable[[], bool] = lambda: False,
        before_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._rate_rows_s = rate_rows_s
        self._speedup = speedup
        self._clock = clock
        self._sleep = sleep
        self._should_stop = should_stop
        self._before_wait = before_wait
        self._due_s: float | None = None
        self._events = EventClock(_MAX_JUMP_MS)
        self._start: tuple[float, int] | None = None  # clock and event time of the first batch

    def wait(self, rows: int, event_time_ms: int, name: str = "a batch") -> bool:
        """Waits until a batch of `rows` with the last event at `event_time_ms` is due; False if asked to stop.

        Messages call the batch by its name.
        """
        due_s = self._due(rows, event_time_ms, name)
        if self._speedup is not None and due_s - self._clock() > _LONG_WAIT_S:
            logger.info(
                "%s: waits %.0f s for the pace of the log (event time %s)",
                name, due_s - self._clock(), np.datetime64(event_time_ms, "ms"),
            )  # fmt: skip
        if due_s - self._clock() > _NOTICEABLE_WAIT_S:
            self._before_wait()
        while not self._should_stop():
            left_s = due_s - self._clock()
            if left_s <= 0:
                return True
            self._sleep(min(left_s, _MAX_NAP_S))
        return False

    def _due(self, rows: int, event_time_ms: int, name: str) -> float:
        now_s = self._clock()
        if self._rate_rows_s is not None:
            due_s = now_s if self._due_s is None else max(self._due_s, now_s - _MAX_BACKLOG_S)
            self._due_s = due_s + rows / self._rate_rows_s
            return due_s
        if self._speedup is not None:
            event_ms = self._follow(event_time_ms, name)
            self._start = self._start or (now_s, event_ms)
            return self._start[0] + (event_ms - self._start[1]) / 1000 / self._speedup
        return now_s

    def _follow(self, event_time_ms: int, name: str) -> int:
        """The event time without outliers."""
        known = self._events.num_outliers
        now_ms = self._events.advance(event_time_ms)
        outliers = self._events.num_outliers
        if outliers > known and outliers & (outliers - 1) == 0:  # a power of two
            logger.warning(
                "%s: event time %s is more than a day from the times before it, so the pace ignores it; "
                "%d such batches so far",
                name, np.datetime64(event_time_ms, "ms"), outliers,
            )  # fmt: skip
        return now_ms
