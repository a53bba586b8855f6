"""`Feed`: follows the topics in a thread of its own, and gives each new view to the page's connections.

TopModel --thread, once an interval--> View --JSON--> `wait_next` of every connection (event loop)
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from streams.dashboard.history import History
from streams.dashboard.views import sample_of, view_as_json
from streams.errors import StreamsError
from streams.top.model import TopModel

__all__ = ["Feed"]

_MOST_LINES = 100
_STOP_S = 2.0


class Feed:
    """Owns the model. Make it inside a running event loop.

    Args:
        open_model: opens the model, in the thread that follows.
        interval_s: the time between two views.

    Attributes:
        latest: the newest view as JSON; None before the first.
        number: how many views there were.
        error: why the feed has ended by itself; None if it has not.
        ended: set when it has ended, for whatever reason.
    """

    def __init__(self, open_model: Callable[[], TopModel], *, interval_s: float = 1.0) -> None:
        self.latest: str | None = None
        self.number = 0
        self.error: StreamsError | None = None
        self.ended = asyncio.Event()
        self._open_model, self._interval_s = open_model, interval_s
        self._loop = asyncio.get_running_loop()
        self._fresh = asyncio.Event()  # another one after each view
        self._stops = threading.Event()
        self._history = History()
        self._columns: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._follow, name="dashboard", daemon=True)
        self._thread.start()

    def history(self) -> dict[str, Any]:
        """The columns of the charts."""
        return self._columns

    async def wait_next(self, number: int, timeout_s: float) -> int:
        """Waits until there are more than `number` views, the end or the timeout; returns how many there are."""
        if self.number <= number and not self.ended.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._fresh.wait(), timeout_s)
        return self.number

    async def stop(self) -> None:
        """Ends the thread, unless it waits for a broker that does not answer; and all waits."""
        self._stops.set()
        self._end(None)
        await asyncio.to_thread(self._thread.join, _STOP_S)

    def _follow(self) -> None:
        error = None
        try:
            with self._open_model() as model:
                for _ in model.follow(self._interval_s, self._stops):
                    self._publish(model)
        except StreamsError as reason:
            error = reason
        finally:
            self._call(self._end, error)

    def _publish(self, model: TopModel) -> None:
        view, time_ms = model.view(most=_MOST_LINES), time.time_ns() // 1_000_000
        sample = sample_of(view)
        self._history.add(time_ms, sample)
        text = json.dumps({"time_ms": time_ms, "sample": sample, **view_as_json(view)}, allow_nan=False)
        self._call(self._take, text, self._history.columns())

    def _call(self, take: Callable[..., None], *news: Any) -> None:
        """Runs a method in the event loop, unless that has ended, and with it all connections."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(take, *news)

    def _take(self, text: str, columns: dict[str, Any]) -> None:
        self.latest, self.number, self._columns = text, self.number + 1, columns
        self._wake()

    def _end(self, error: StreamsError | None) -> None:
        self.error = self.error or error
        self.ended.set()
        self._wake()

    def _wake(self) -> None:
        self._fresh.set()
        self._fresh = asyncio.Event()
