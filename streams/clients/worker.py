"""`Worker`: a background thread that runs tasks in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["Worker"]


class Worker:
    """Runs tasks one after the other in its own thread.

    Guarantees: tasks run in the order of submission; after a task has failed no later one runs, and the next call of
    any method raises the failure.

    Args:
        name: the name of the thread.
        max_waiting: the largest number of waiting tasks; `submit` blocks when it is reached.
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
        except BaseException as error:  # noqa: BLE001  the caller's next call raises it
            self._failure = error

    def check(self) -> None:
        """Raises the failure of a task, if one has failed."""
        if self._failure is not None:
            raise self._failure

    def submit(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Queues a task."""
        self.check()
        self._tasks.put((task, arguments))

    def drain(self) -> None:
        """Waits until every submitted task is done."""
        self._tasks.join()
        self.check()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the thread after its queued tasks; raises their failure unless another error is being raised."""
        self._tasks.put(None)
        self._thread.join()
        if kind is None:
            self.check()
