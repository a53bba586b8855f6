"""How a long command is asked to end: the first SIGINT or SIGTERM is noted, a second one ends the process as usual."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopRequest"]


class StopRequest:
    """Notes the first SIGINT or SIGTERM.

    Attributes:
        signal: the signal's number, None as long as there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def is_made(self) -> bool:
        """Whether the process was asked to end."""
        return self.signal is not None

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Notes a signal; the next one of its kind does what it usually does."""
        self.signal = number
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listens as long as the `with` lasts."""
        previous = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
