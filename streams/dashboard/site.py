"""`listening`: an application of aiohttp on an address, inside the `with`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from streams.errors import ConfigError

__all__ = ["listening"]


@asynccontextmanager
async def listening(app: web.Application, *, host: str, port: int) -> AsyncIterator[str]:
    """Serves an application; yields its address as a URL.

    Args:
        app: the application.
        host: the address to bind to.
        port: the port; 0 for any free one.

    Raises:
        ConfigError: the port cannot be bound.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigError(
                f"--host {host} --port {port}: got {error}, expected a free port of an address of this machine; choose "
                "another one"
            ) from error
        shown, bound = f"[{host}]" if ":" in host else host, runner.addresses[0][1]
        yield f"http://{shown}:{bound}/"
    finally:
        await runner.cleanup()
