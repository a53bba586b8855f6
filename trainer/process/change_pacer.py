"""How many changes of the hot set to apply between two steps, so that training never pauses for longer than a step."""

from __future__ import annotations

__all__ = ["ChangePacer"]

_SHARE = 0.5  # of a step's time that a pause may take
_SMOOTHING = 0.2
_FIRST, _LEAST, _MOST = 256, 16, 20_000


class ChangePacer:
    """Learns what a step and what a change cost, and says how many changes fit into half a step.

    `limit` depends on clocks; a run is repeated from its journal, which holds what was applied when.

    Attributes:
        limit: changes to apply between two steps, 16 to 20,000.
    """

    def __init__(self) -> None:
        self.limit = _FIRST
        self._step_s = 0.0
        self._change_s = 0.0

    def note_step(self, seconds: float) -> None:
        """A step took so long."""
        self._step_s += (seconds - self._step_s) * (_SMOOTHING if self._step_s else 1.0)

    def note_changes(self, count: int, seconds: float) -> None:
        """So many changes, applied at once, took so long; the next limit is at most twice as many."""
        if not count or not self._step_s:
            return
        each_s = seconds / count
        self._change_s = max(each_s, self._change_s + (each_s - self._change_s) * _SMOOTHING)
        fitting = int(self._step_s * _SHARE / self._change_s)
        self.limit = max(_LEAST, min(fitting, 2 * self.limit, _MOST))
