"""`Health`: whether a process makes progress, which is more than that it lives.

    ready      it has started, the broker answers, and where a log grows its records are read
    healthy    no thread has died, and no log has grown for minutes without that anything of it was read

A process that is not ready waits, and goes on by itself. One that is not healthy needs a restart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Health"]

_ANSWER_S = 8.0  # asked every second, and given a second to answer
_STALL_S = 60.0
_STUCK_S = 300.0


@dataclass
class _Standing:
    """A partition: the next offset of the reader, and the growth of the log since the reader last moved."""

    offset: int
    end: int
    first_s: float | None = None
    last_s: float = 0.0

    @property
    def stall_s(self) -> float:
        """How long the log has grown while the reader stood still."""
        return 0.0 if self.first_s is None else self.last_s - self.first_s


class Health:
    """Judges a process by the ends of the log that it reads, and by its own offsets. Thread-safe.

    A reader may stop before the end of a partition for ever: the end of a transaction takes an offset, and aborted
    records take theirs. So a distance to the end is no fault; a log that keeps growing before a reader that stands is.

    Args:
        clock_s: seconds.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._began_s = clock_s()
        self._is_started: Callable[[], bool] | None = None
        self._topic = ""
        self._answered_s: float | None = None
        self._standings: dict[int, _Standing] = {}
        self._dead: list[str] = []

    def start(self, topic: str, is_started: Callable[[], bool]) -> None:
        """Notes that the process reads or writes `topic`, and when it can be asked whether it works."""
        self._topic, self._is_started = topic, is_started

    def note_answer(self, ends: Mapping[int, int], offsets: Mapping[int, int]) -> None:
        """Notes that the broker has answered, with the ends of partitions and the next offsets of the process."""
        now_s = self._clock_s()
        with self._lock:
            self._answered_s = now_s
            for number in set(self._standings) - set(offsets):
                del self._standings[number]  # another process reads it now
            for number, offset in offsets.items():
                if number in ends:
                    self._note(number, offset, ends[number], now_s)

    def _note(self, number: int, offset: int, end: int, now_s: float) -> None:
        standing = self._standings.get(number)
        if standing is None or standing.offset != offset:
            self._standings[number] = _Standing(offset, end)
        elif end > standing.end:
            standing.end, standing.last_s = end, now_s
            standing.first_s = now_s if standing.first_s is None else standing.first_s

    def note_death(self, thread: str) -> None:
        """Notes that a thread has ended with an error."""
        with self._lock:
            self._dead.append(thread)

    @property
    def answer_age_s(self) -> float:
        """The time since the broker last answered, or since the start."""
        return self._clock_s() - (self._began_s if self._answered_s is None else self._answered_s)

    def why_not_ready(self) -> str | None:
        """What the process lacks to do its work; None if it does it."""
        if self._is_started is None or not self._is_started():
            return f"starting for {self._clock_s() - self._began_s:.0f} s"
        if self._answered_s is None or self.answer_age_s > _ANSWER_S:
            return f"the broker has not answered for {self.answer_age_s:.0f} s"
        return self._why(_STALL_S)

    def why_not_healthy(self) -> str | None:
        """Why the process needs a restart; None if it does not."""
        return self._why(_STUCK_S)

    def _why(self, limit_s: float) -> str | None:
        with self._lock:
            if self._dead:
                return f"ended with an error: the threads {', '.join(self._dead)}"
            for number, standing in sorted(self._standings.items()):
                if standing.stall_s >= limit_s:
                    return (
                        f"{self._topic}[{number}] has grown for {standing.stall_s:.0f} s, and nothing was read from "
                        f"offset {standing.offset} on"
                    )
        return None
