"""`History`: the figures of the charts since the server's start, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["History"]

Sample = Mapping[str, float | None]


class History:
    """Samples by time. When `most` are kept, every second one is dropped, and from then on every second one is taken.

    So the samples reach from the first one to the last few at equal distances, whatever the time between.

    `columns` may be called in another thread than `add`.

    Args:
        most: the most samples to keep, an even number.

    >>> history = History(most=4)
    >>> for time_ms in range(9):
    ...     history.add(time_ms, {"hot": 10.0 * time_ms})
    >>> history.columns()
    {'time_ms': [0, 4, 8], 'hot': [0.0, 40.0, 80.0]}
    """

    def __init__(self, most: int = 1200) -> None:
        self._most, self._step, self._due = most, 1, 0
        self._samples: list[tuple[int, Sample]] = []

    def add(self, time_ms: int, sample: Sample) -> None:
        """Takes a sample, unless it is not due."""
        self._due -= 1
        if self._due > 0:
            return
        if len(self._samples) == self._most:
            self._samples = self._samples[::2]
            self._step *= 2
        self._samples.append((time_ms, dict(sample)))
        self._due = self._step

    def columns(self) -> dict[str, list[int] | list[float | None]]:
        """The times, and a column of each name; None where a sample lacks it."""
        samples = list(self._samples)  # one step for other threads
        names = dict.fromkeys(name for _, sample in samples for name in sample)
        columns: dict[str, list[int] | list[float | None]] = {"time_ms": [time_ms for time_ms, _ in samples]}
        for name in names:
            columns[name] = [sample.get(name) for _, sample in samples]
        return columns
