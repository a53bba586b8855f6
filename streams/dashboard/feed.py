"""`Feed`: follows the topics in a thread of its own, and gives each new view to the page's connections.

TopModel --thread, once an interval--> View --JSON, if a page is open--> `wait_next` of every connection (event loop)
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
        latest: the newest view as JSON; None before the first, and while no page is open.
        number: how many views were made for pages.
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
        self._wakes = threading.Event()  # ends the thread's pause between two views
        self._num_pages = 0
        self._history = History()
        self._thread = threading.Thread(target=self._follow, name="dashboard", daemon=True)
        self._thread.start()

    def history(self) -> dict[str, Any]:
        """The columns of the charts."""
        return self._history.columns()

    @contextmanager
    def page(self) -> Iterator[None]:
        """An open page, for which views are made; the first one comes at once, whatever the interval."""
        self._num_pages += 1
        if self.latest is None:
            self._wakes.set()
        try:
            yield
        finally:
            self._num_pages -= 1

    async def wait_next(self, number: int, timeout_s: float) -> int:
        """Waits until there are more than `number` views, the end or the timeout; returns how many there are."""
        if (self.number <= number or self.latest is None) and not self.ended.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._fresh.wait(), timeout_s)
        return self.number

    async def stop(self) -> None:
        """Ends the thread, unless it waits for a broker that does not answer; and all waits."""
        self._stops.set()
        self._wakes.set()
        self._end(None)
        await asyncio.to_thread(self._thread.join, _STOP_S)

    def _follow(self) -> None:
        error = None
        try:
            with self._open_model() as model:
                for _ in model.follow(self._interval_s, self._stops, self._pause):
                    self._publish(model)
        except StreamsError as reason:
            error = reason
        finally:
            self._call(self._end, error)

    def _pause(self, timeout_s: float) -> None:
        self._wakes.wait(timeout_s)
        self._wakes.clear()

    def _publish(self, model: TopModel) -> None:
        is_open, time_ms = self._num_pages > 0, time.time_ns() // 1_000_000
        view = model.view(most=_MOST_LINES if is_open else 0)
        sample = sample_of(view)
        is_current = model.is_current  # before that the charts would show a hot set that grows
        if is_current:
            self._history.add(time_ms, sample)
        text = None
        if is_open:
            news = {"time_ms": time_ms, "sample": sample if is_current else None, **view_as_json(view)}
            text = json.dumps(news, allow_nan=False)
        self._call(self._take, text)

    def _call(self, take: Callable[..., None], *news: Any) -> None:
        """Runs a method in the event loop, unless that has ended, and with it all connections."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(take, *news)

    def _take(self, text: str | None) -> None:
        self.latest = text
        if text is not None:
            self.number += 1
            self._wake()

    def _end(self, error: StreamsError | None) -> None:
        self.error = self.error or error
        self.ended.set()
        self._wake()

    def _wake(self) -> None:
        self._fresh.set()
        self._fresh = asyncio.Event()
