"""Metrics of the processes of `hotstream serve --workers`: each shows its own on a socket of a folder that is theirs.

`gather` reads all of them and gives each sample the label `process`, so that one scrape has all, whichever process
answers it; a process that was started again begins with zeros, which Prometheus knows how to read.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

__all__ = ["exposing", "gather"]

logger = logging.getLogger(__name__)

_TIMEOUT_S = 2.0


@asynccontextmanager
async def exposing(registry: CollectorRegistry, path: Path) -> AsyncIterator[None]:
    """Shows a registry on a socket of this path, which a process before this one may have left."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=await asyncio.to_thread(generate_latest, registry))

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    path.unlink(missing_ok=True)
    try:
        await web.UnixSite(runner, str(path)).start()
        yield
    finally:
        await runner.cleanup()


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket of the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connects to the path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))


class _Gathered(Collector):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """The families of all processes that answer."""
        families: dict[str, Metric] = {}
        for path in sorted(self._folder.glob("*.sock")):
            for family in _read(path):
                mine = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                mine.samples += [
                    one._replace(labels={**one.labels, "process": path.stem}) for one in family.samples
                ]  # fmt: skip
        yield from families.values()


def _read(path: Path) -> list[Metric]:
    """The families of a process; none if it does not answer, as it is just starting, or has died."""
    connection = _Connection(path)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException) as error:
        logger.debug("%s: %s", path, error)
        return []
    finally:
        connection.close()
    return list(text_string_to_metric_families(text))


def gather(folder: Path, accept: str) -> tuple[bytes, str]:
    """What the processes of a folder show, and its content type; blocks for as long as they take to answer."""
    encode, kind = choose_encoder(accept)
    registry = CollectorRegistry()
    registry.register(_Gathered(folder))
    return encode(registry), kind
