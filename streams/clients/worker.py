"""`Worker`: one thread beside training that does what it is given, in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["Worker"]


class Worker:
    """Does tasks one after the other in a thread of its own.

    Guarantees: tasks happen in the order in which they were given; after one has failed no later one is begun, and
    the failure is raised by the next call of any method.

    Args:
        name: of the thread.
        max_waiting: tasks that may wait; `submit` waits for room.
    """

    def __init__(self, name: str, max_waiting: int = 64) -> None:
        self._tasks: queue.Queue[tuple[Callable[..., Any], tuple[Any, ...]] | None] = queue.Queue(max_waiting)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._failure is None:
                self._do(*task)
            self._tasks.task_done()
        self._tasks.task_done()

    def _do(self, task: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            task(*arguments)
        except BaseException as error:  # noqa: BLE001  raised again where the work was asked for
            self._failure = error

    def check(self) -> None:
        """Raises what a task has failed with, if one has."""
        if self._failure is not None:
            raise self._failure

    def submit(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Has a task done after those before it."""
        self.check()
        self._tasks.put((task, arguments))

    def drain(self) -> None:
        """Returns when everything that was submitted is done."""
        self._tasks.join()
        self.check()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the thread after what it has; a failure that nobody has seen is raised if nothing else is."""
        self._tasks.put(None)
        self._thread.join()
        if kind is None:
            self.check()
