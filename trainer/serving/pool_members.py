"""What the processes of a `Pool` do: the writer follows the topic, a worker answers on the port."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry

from streams.clients.connector import Connector
from streams.dashboard.access import Access
from streams.telemetry.health import Health
from streams.telemetry.monitor import ProcessMonitor
from trainer.errors import ReplicaError
from trainer.serving.member_metrics import exposing, gather
from trainer.serving.pool import Member
from trainer.serving.replica import Replica
from trainer.serving.server import InferenceServer, process_registry
from trainer.serving.shared_replica import SharedReplica

__all__ = ["work", "write"]

_LOOK_S = 0.1
_START_S = 60.0


def write(member: Member, connector: Connector, export: Path | None, should_stop: Callable[[], bool]) -> None:
    """Follows the topic and shares the rows, until it should stop.

    Raises:
        BrokerError: no broker answers.
        ReplicaError: it can follow no more.
        TopicError: the topic is missing.
    """
    monitor = ProcessMonitor("serve", Health())
    try:
        with Replica(connector, export=export, share=member.share) as replica:
            monitor.attach(replica.watched())
            replica.start()
            registry = process_registry(lambda: [*replica.figures(), *monitor.figures()])
            asyncio.run(_idle(member, registry, lambda: should_stop() or replica.why_not_live is not None))
            if replica.why_not_live is not None:
                raise ReplicaError(replica.why_not_live)
    finally:
        monitor.close()


async def _idle(member: Member, registry: CollectorRegistry, should_stop: Callable[[], bool]) -> None:
    async with exposing(registry, member.metrics_path):
        while not should_stop():
            await asyncio.sleep(_LOOK_S)


def work(member: Member, name: str, access: Access, max_bytes: int, should_stop: Callable[[], bool]) -> None:
    """Answers requests with the writer's rows, until it should stop.

    Raises:
        ReplicaError: there is no writer after a minute.
    """
    shared = _attach(member.share, should_stop)
    if shared is None:
        return
    with shared, socket.socket(fileno=member.port_file) as port:
        server = InferenceServer(
            shared, name, access, max_bytes=max_bytes, figures=ProcessMonitor("serve").figures,
            expose=lambda accept: gather(member.folder, accept),
        )  # fmt: skip
        asyncio.run(_answer(server, member, port, should_stop))


def _attach(share: str, should_stop: Callable[[], bool]) -> SharedReplica | None:
    """The writer's rows, once it has begun; None if it should stop before."""
    end_s = time.monotonic() + _START_S
    while not should_stop():
        try:
            return SharedReplica(share)
        except ReplicaError:  # noqa: PERF203  once each .1 s
            if time.monotonic() > end_s:
                raise
            time.sleep(_LOOK_S)
    return None


async def _answer(
    server: InferenceServer, member: Member, port: socket.socket, should_stop: Callable[[], bool]
) -> None:
    runner = web.AppRunner(server.app, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        async with exposing(server.registry, member.metrics_path):
            await web.SockSite(runner, port).start()
            while not should_stop():
                await asyncio.sleep(_LOOK_S)
    finally:
        await runner.cleanup()
