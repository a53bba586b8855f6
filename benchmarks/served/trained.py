"""`python -m benchmarks.served.trained LOG ARGUMENTS...`: `hotstream ARGUMENTS...`, which notes what each step trained.

A note is three int64 (time in ns since the epoch at the end of the step, rows trained by then, K), then K uint64 keys.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Step", "read_steps"]

_HEAD = 3


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one click record of a step trained: when it ended, rows trained by then, and distinct keys (K,)."""

    ended_ns: int
    rows: int
    keys: npt.NDArray[np.uint64]


def read_steps(path: Path) -> Iterator[Step]:
    """The notes that are complete."""
    words = np.frombuffer(path.read_bytes()[: path.stat().st_size // 8 * 8], np.int64)
    start = 0
    while start + _HEAD <= len(words) and start + _HEAD + int(words[start + 2]) <= len(words):
        ended_ns, rows, count = (int(word) for word in words[start : start + _HEAD])
        start += _HEAD
        yield Step(ended_ns=ended_ns, rows=rows, keys=words[start : start + count].view(np.uint64))
        start += count


def _main(log: Path, arguments: list[str]) -> None:
    from trainer.cli import main  # noqa: PLC0415  a parent that reads notes needs neither this
    from trainer.process.publication import Publication  # noqa: PLC0415  nor torch

    file, note = log.open("wb"), Publication.note_importance

    def noted(self: Any, importance: Any) -> None:
        head = np.array([time.time_ns(), self._run.progress.rows, len(importance.keys)], np.int64)
        file.write(head.tobytes() + importance.keys.tobytes())
        file.flush()
        note(self, importance)

    Publication.note_importance = noted  # type: ignore[method-assign]  # the same run, and its clock is looked at
    sys.argv = ["hotstream", *arguments]
    main()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2:])
