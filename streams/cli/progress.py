"""The progress of a long command: a bar on a terminal, a log line every 5 s elsewhere, and a line when it is silent."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from streams.cli.log_lines import draws_bars

__all__ = ["ShowProgress", "log_while_silent", "show_progress"]

logger = logging.getLogger(__name__)
_LOG_INTERVAL_S = 5.0
ShowProgress: TypeAlias = Callable[[int, int | None, str], None]
"""Completed units, units in total or None if unknown, and the text beside the bar."""


@contextmanager
def show_progress(
    label: str, clock_s: Callable[[], float] = time.monotonic, *, interval_s: float = _LOG_INTERVAL_S
) -> Iterator[ShowProgress]:
    """Gives a function that shows progress on standard error: `show(completed, total, text)`.

    Args:
        label: the name of the work, shown before the bar or the text.
        clock_s: seconds, for the interval of log lines.
        interval_s: between two log lines; infinite for a command that logs by itself.
    """
    if not draws_bars():
        yield _log_lines(label, clock_s, interval_s)
        return
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(TextColumn(label), *columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(completed: int, total: int | None, text: str) -> None:
            bar.update(task, completed=completed, total=total, description=text)

        yield show


def _log_lines(label: str, clock_s: Callable[[], float], interval_s: float) -> ShowProgress:
    logged_s = clock_s()

    def log(completed: int, total: int | None, text: str) -> None:
        nonlocal logged_s
        now_s = clock_s()
        if now_s - logged_s >= interval_s:
            logged_s = now_s
            share = f", {completed / total:.0%}" if total else ""
            logger.info("%s: %s%s", label, text, share)

    return log


@contextmanager
def log_while_silent(
    text: Callable[[float], str], *, interval_s: float = _LOG_INTERVAL_S
) -> Iterator[Callable[[], None]]:
    """Gives a function to call with every line of the command; after each interval without a call, logs `text`.

    A thread waits for the interval, so the caller may be busy, even with compiling. On a terminal it logs nothing,
    because the bar shows the time.

    Args:
        text: returns the line, given the seconds since the last call.
        interval_s: seconds of silence before a line.
    """
    if draws_bars():
        yield lambda: None
        return
    called, stopped = threading.Event(), threading.Event()

    def watch() -> None:
        called_s = time.monotonic()
        while not stopped.is_set():
            if called.wait(interval_s):
                called.clear()
                called_s = time.monotonic()
            else:
                logger.info("%s", text(time.monotonic() - called_s))

    watching = threading.Thread(target=watch, name="log-while-silent", daemon=True)
    watching.start()
    try:
        yield called.set
    finally:
        stopped.set()
        called.set()
        watching.join()
