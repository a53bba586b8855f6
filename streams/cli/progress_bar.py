"""The progress bar of a long command, drawn on standard error if that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["DrawProgress", "progress_bar"]


DrawProgress = Callable[[int, int | None, str], None]
"""(completed units, total units or None if unknown, the text beside the bar)."""


@contextmanager
def progress_bar(label: str) -> Iterator[DrawProgress]:
    """Yields the function that draws the bar, which does nothing unless standard error is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(label), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def draw(completed: int, total: int | None, description: str) -> None:
            bar.update(task, completed=completed, total=total, description=description)

        yield draw
