"""`serve`: the page, its live events, and what it asks of the past, over HTTP.

/ and its files        the page; static/ in this package, no build step
/events                server-sent events: a view once an interval; `waits` while the broker does not answer
/api/history           the columns of the charts
/api/span, /api/moment, /api/story, /api/compare   read the topics on demand, two at a time
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from importlib.resources import files
from typing import Any

from aiohttp import web

from streams.clients.connector import Connector
from streams.dashboard.access import Access
from streams.dashboard.feed import Feed
from streams.dashboard.past import read_moment, read_span, read_story
from streams.dashboard.site import listening
from streams.errors import ConfigError, InvariantError, StreamsError
from streams.escapes import escape

__all__ = ["FEED", "make_app", "serve"]

_FILES = {
    "/": ("page.html", "text/html"),
    "/login": ("login.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/charts.js": ("charts.js", "text/javascript"),
    "/past.js": ("past.js", "text/javascript"),
    "/tables.js": ("tables.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_MAX_STREAMS = 32
_MAX_READS = 2
_SILENCE_S = 5.0  # after so long without a view a connection gets the reason
_STOP_S = 0.2
_MAX_TEXT = 600
Read = Callable[[], dict[str, Any]]
FEED: web.AppKey[Feed] = web.AppKey("feed", Feed)


class _Page:
    """The handlers.

    Args:
        connector: the broker.
        access: adds the headers to streams.
        compare: compares with the shadow; None without one.
        shadow: its name.
    """

    def __init__(self, connector: Connector, access: Access, compare: Read | None, shadow: str | None) -> None:
        self._connector, self._access, self._compare, self._shadow = connector, access, compare, shadow
        self._reads = asyncio.Semaphore(_MAX_READS)
        self._num_streams = 0

    async def config(self, _request: web.Request) -> web.Response:
        """What does not change."""
        return web.json_response(
            {"prefix": self._connector.prefix, "servers": self._connector.bootstrap_servers, "shadow": self._shadow}
        )

    async def history(self, request: web.Request) -> web.Response:
        """The columns of the charts."""
        return web.json_response(request.app[FEED].history())

    async def span(self, _request: web.Request) -> web.Response:
        """What the slider reaches."""
        return await self._read(partial(read_span, self._connector))

    async def moment(self, request: web.Request) -> web.Response:
        """The table at a moment."""
        return await self._read(partial(read_moment, self._connector, _text(request, "at")))

    async def story(self, request: web.Request) -> web.Response:
        """The changes of a feature."""
        return await self._read(partial(read_story, self._connector, _text(request, "feature")))

    async def comparison(self, _request: web.Request) -> web.Response:
        """The running hot set beside the shadow's."""
        if self._compare is None:
            raise web.HTTPNotFound(text="no shadow: start with --shadow NAME\n")
        return await self._read(self._compare)

    async def _read(self, read: Read) -> web.Response:
        """Reads topics in another thread; what was wrong with the question is a 400, with the broker a 503."""
        async with self._reads:
            try:
                return web.json_response(await asyncio.to_thread(read))
            except ConfigError as error:
                return web.json_response({"error": _plain(error)}, status=400)
            except StreamsError as error:
                return web.json_response({"error": _plain(error)}, status=503)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Sends every view until the reader or the server goes away."""
        if self._num_streams >= _MAX_STREAMS:
            raise web.HTTPServiceUnavailable(text=f"{_MAX_STREAMS} pages are open, which is the most\n")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        self._access.protect(response)
        self._num_streams += 1
        try:
            await response.prepare(request)
            with request.app[FEED].page():
                await self._send(request.app[FEED], response)
        except ConnectionError:
            pass  # the reader has gone
        finally:
            self._num_streams -= 1
        return response

    async def _send(self, feed: Feed, response: web.StreamResponse) -> None:
        sent = 0
        while not feed.ended.is_set():
            number = await feed.wait_next(sent, _SILENCE_S)
            if number > sent and feed.latest is not None:
                sent = number
                await response.write(f"event: view\ndata: {feed.latest}\n\n".encode())
            else:
                waits = json.dumps({"reason": self._connector.waits.describe()})
                await response.write(f"event: waits\ndata: {waits}\n\n".encode())


def _text(request: web.Request, name: str) -> str:
    text = request.query.get(name, "").strip()
    if not 0 < len(text) <= _MAX_TEXT:
        raise web.HTTPBadRequest(text=f"{name}: got {len(text)} characters, expected 1 to {_MAX_TEXT}\n")
    return text


def _plain(error: StreamsError) -> str:
    """The message of an error; `--as-of`, which some name, is an option of `watch`."""
    return escape(str(error).removeprefix("--as-of: "))


def _static(name: str, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    body = (files("streams.dashboard") / "static" / name).read_bytes()

    async def send(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return send


def make_app(
    connector: Connector,
    feed: Feed,
    access: Access,
    *,
    compare: Read | None = None,
    shadow: str | None = None,
) -> web.Application:
    """The application of a running feed. Call it inside the event loop.

    Args:
        connector: the broker, for what is read on demand.
        feed: the live views.
        access: who may see them.
        compare: compares with the shadow, in another thread; None without one.
        shadow: its name.
    """
    page = _Page(connector, access, compare, shadow)
    app = web.Application(middlewares=[access.middleware], client_max_size=1 << 12)
    app[FEED] = feed
    for path, (name, kind) in _FILES.items():
        app.router.add_get(path, _static(name, kind))
    app.router.add_post("/login", access.log_in)
    app.router.add_get("/events", page.events)
    for handler in (page.config, page.history, page.span, page.moment, page.story):
        app.router.add_get(f"/api/{handler.__name__}", handler)
    app.router.add_get("/api/compare", page.comparison)
    return app


async def serve(
    app: web.Application, *, host: str, port: int, should_stop: Callable[[], bool], say: Callable[[str], None]
) -> None:
    """Serves until it is to stop, or the feed ends.

    Args:
        app: of `make_app`.
        host: the address to bind to; port: 0 for any free one.
        port: see above.
        should_stop: asked several times a second.
        say: gets the address of the page.

    Raises:
        ConfigError: the port cannot be bound.
        StreamsError: the feed has ended with this error.
    """
    feed = app[FEED]
    async with AsyncExitStack() as opened:
        opened.push_async_callback(feed.stop)  # also if the port cannot be bound
        say(await opened.enter_async_context(listening(app, host=host, port=port)))
        opened.push_async_callback(feed.stop)  # first, as the server waits for its streams
        while not should_stop() and not feed.ended.is_set():
            await asyncio.sleep(_STOP_S)
        if feed.ended.is_set():
            raise feed.error or InvariantError("dashboard: the thread that follows the topics has ended")
