"""Orderly shutdown of a long command: it observes the first SIGINT or SIGTERM; a second one ends the process."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopRequest"]


class StopRequest:
    """Records the first SIGINT or SIGTERM.

    Attributes:
        signal: the number of the signal; None before one arrives.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def is_made(self) -> bool:
        """Whether a signal has arrived."""
        return self.signal is not None

    def _record(self, number: int, _frame: FrameType | None) -> None:
        """Records a signal and restores the default handler for the next one of its kind."""
        self.signal = number
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals inside the `with`; restores the previous handlers after it."""
        previous = {number: signal.signal(number, self._record) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
