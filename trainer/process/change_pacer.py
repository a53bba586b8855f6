"""Limits the changes of the hot set between two steps, so that training pauses for at most about half a step."""

from __future__ import annotations

__all__ = ["ChangePacer"]

_SHARE = 0.5  # the longest pause, as a share of a step's time
_SMOOTHING = 0.2
_FIRST, _LEAST, _MOST = 256, 16, 20_000


class ChangePacer:
    """Measures the cost of a step and of a change, and limits the changes to those that fit into half a step.

    `limit` depends on the clock; a repeated run uses the journal instead, which records the applied changes.

    Attributes:
        limit: the largest number of changes to apply between two steps, 16 to 20,000.
    """

    def __init__(self) -> None:
        self.limit = _FIRST
        self._step_s = 0.0
        self._change_s = 0.0

    def note_step(self, seconds: float) -> None:
        """Records the time of a step."""
        self._step_s += (seconds - self._step_s) * (_SMOOTHING if self._step_s else 1.0)

    def note_changes(self, count: int, seconds: float) -> None:
        """Records the time of applying `count` changes at once; the limit grows at most twofold."""
        if not count or not self._step_s:
            return
        each_s = seconds / count
        self._change_s = max(each_s, self._change_s + (each_s - self._change_s) * _SMOOTHING)
        fitting = int(self._step_s * _SHARE / self._change_s)
        self.limit = max(_LEAST, min(fitting, 2 * self.limit, _MOST))
