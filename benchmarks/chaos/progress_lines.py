"""`ProgressLines`: one line for each event of a campaign, and one every few seconds while nothing happens."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

__all__ = ["ProgressLines"]

_SILENCE_S = 4.0


class ProgressLines:
    """Writes lines with the seconds since the start to standard error.

    Attributes:
        state: the text of the line that a silence ends with; callers keep it up to date.
    """

    def __init__(self) -> None:
        self.state = "starting"
        self._started_s = self._line_s = time.monotonic()
        self._ended = threading.Event()

    def __enter__(self) -> ProgressLines:
        threading.Thread(target=self._break_silences, name="progress", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def say(self, text: str) -> None:
        """Writes a line."""
        self._line_s = time.monotonic()
        sys.stderr.write(f"{self._line_s - self._started_s:7.1f} s  {text}\n")
        sys.stderr.flush()

    def _break_silences(self) -> None:
        while not self._ended.wait(0.5):
            if time.monotonic() - self._line_s > _SILENCE_S:
                self.say(f"... {self.state}")
