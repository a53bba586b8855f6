"""The progress of a long command: a bar on a terminal, a log line every 5 s elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

__all__ = ["ShowProgress", "show_progress"]

logger = logging.getLogger(__name__)
_LOG_INTERVAL_S = 5.0
ShowProgress: TypeAlias = Callable[[int, int, str], None]


@contextmanager
def show_progress(label: str, clock_s: Callable[[], float] = time.monotonic) -> Iterator[ShowProgress]:
    """Gives a function that shows progress on standard error: `show(completed, total, text)`.

    Args:
        label: the name of the work, shown before the bar or the text.
        clock_s: seconds, for the interval of log lines.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_lines(label, clock_s)
        return
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(TextColumn(label), *columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(completed: int, total: int, text: str) -> None:
            bar.update(task, completed=completed, total=total, description=text)

        yield show


def _log_lines(label: str, clock_s: Callable[[], float]) -> ShowProgress:
    logged_s = clock_s()

    def log(completed: int, total: int, text: str) -> None:
        nonlocal logged_s
        now_s = clock_s()
        if now_s - logged_s >= _LOG_INTERVAL_S:
            logged_s = now_s
            logger.info("%s: %s, %.0f %%", label, text, 100 * completed / max(total, 1))

    return log
