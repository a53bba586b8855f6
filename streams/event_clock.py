"""`EventClock`: event time that wrong times of single records cannot stop or hurry."""

from __future__ import annotations

from collections import deque
from typing import Any

__all__ = ["EventClock"]

_PATIENCE = 32  # surplus of outliers after which time has changed
_MAX_INT64 = (1 << 63) - 1


class EventClock:
    """Follows the event times of records; a time too far from the newest one is an outlier and does not move the clock.

    Once later (or earlier) outliers outnumber the other records by 32, time has changed: there was a gap, the log began
    again, or the first time was wrong. The clock then continues from these outliers. (The count is a majority vote in
    constant memory: Boyer and Moore, "MJRTY", 1981.)

    Guarantees:
        - The clock never goes back, and one record advances it by at most the limit.
        - Its state is a pure function of the limit and the event times.

    >>> clock = EventClock(1000)
    >>> [clock.advance(event_time_ms) for event_time_ms in (5000, 5600, 4_102_444_800_000, 5500, 6100)]
    [5000, 5600, 5600, 5600, 6100]
    >>> clock.num_outliers
    1

    Args:
        limit_ms: the largest distance from the newest event time, 1 or more.

    Attributes:
        now_ms: the time of the clock; None before the first record.
        num_outliers: the number of outliers so far.
    """

    def __init__(self, limit_ms: int) -> None:
        self._limit_ms = limit_ms
        self._newest_ms = 0
        self._outliers: deque[int] = deque(maxlen=_PATIENCE)
        self.now_ms: int | None = None
        self.num_outliers = 0

    def advance(self, event_time_ms: int) -> int:
        """Follows the event time of a record; returns the time of the clock, in milliseconds."""
        if self.now_ms is None:
            self.now_ms = self._newest_ms = event_time_ms
        ahead_ms = event_time_ms - self._newest_ms
        if abs(ahead_ms) > self._limit_ms:
            self._note_outlier(event_time_ms)
        else:
            self._note_other()
            self.now_ms += max(0, ahead_ms)
            self._newest_ms = max(self._newest_ms, event_time_ms)
        return self.now_ms

    def _note_other(self) -> None:
        if self._outliers:
            self._outliers.popleft()

    def _note_outlier(self, event_time_ms: int) -> None:
        self.num_outliers += 1
        is_later = event_time_ms > self._newest_ms
        if self._outliers and (self._outliers[-1] > self._newest_ms) != is_later:
            self._note_other()
            return
        self._outliers.append(event_time_ms)
        if len(self._outliers) == _PATIENCE:
            self._follow(is_later=is_later)

    def _follow(self, *, is_later: bool) -> None:
        """Continues from the outliers; keeps those that are outliers still."""
        outliers = [time_ms for time_ms in self._outliers if abs(time_ms - self._newest_ms) > self._limit_ms]
        newest_ms = min(outliers) if is_later else max(outliers)
        self.now_ms = (self.now_ms or 0) + min(max(0, newest_ms - self._newest_ms), self._limit_ms)
        self._newest_ms = newest_ms
        self._outliers.clear()
        self._outliers.extend(time_ms for time_ms in outliers if time_ms - newest_ms > self._limit_ms)

    def to_state(self) -> dict[str, Any]:
        """The state for `load_state`, as JSON values."""
        return {
            "newest_ms": self._newest_ms,
            "outliers": list(self._outliers),
            "now_ms": self.now_ms,
            "num_outliers": self.num_outliers,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the result of `to_state`.

        Raises:
            KeyError, TypeError, ValueError: a member is missing or malformed; nothing has changed.
        """
        now_ms, outliers = state["now_ms"], list(state["outliers"])
        numbers = [state["newest_ms"], state["num_outliers"], *outliers, *([] if now_ms is None else [now_ms])]
        are_valid = all(type(number) is int and abs(number) <= _MAX_INT64 for number in numbers)
        if not are_valid or len(outliers) > _PATIENCE:
            raise ValueError(f"clock: got {str(state)[:100]}, expected int64 and at most {_PATIENCE} outliers")
        self._newest_ms, self.num_outliers = state["newest_ms"], state["num_outliers"]
        self.now_ms = now_ms
        self._outliers = deque(outliers, maxlen=_PATIENCE)
