"""`ProcessMonitor`: the metrics and the health of a long process, served if the command was given a port.

    with open_monitor("agent", port=9464) as monitor:
        ...                                                # /readyz: starting
        monitor.attach(Watched(connector=kafka, ...))      # from here on figures and health are those of the process

Nothing is computed unless someone asks; without a port nothing is started.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from streams.clients.connector import Connector
from streams.telemetry.figures import Figure

if TYPE_CHECKING:
    from streams.clients.end_probe import EndProbe
    from streams.telemetry.health import Health
    from streams.telemetry.metrics_server import MetricsServer

__all__ = ["ProcessMonitor", "Watched", "open_monitor"]


def _always() -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a process shows once it works. The functions are called in other threads.

    Args:
        connector: the broker.
        topic: the topic that it reads, or writes.
        num_partitions: its number of partitions.
        offsets: its next offset in each partition that it reads; empty for a process that writes.
        figures: its figures.
        is_started: whether it does its work yet.
    """

    connector: Connector
    topic: str
    num_partitions: int
    offsets: Callable[[], Mapping[int, int]]
    figures: Callable[[], Iterable[Figure]]
    is_started: Callable[[], bool] = _always


class ProcessMonitor:
    """The monitor of this process.

    Args:
        process: the command.
        health: judges the process; None if nothing is served.

    Attributes:
        port: the port of the metrics; None if nothing is served.
    """

    def __init__(self, process: str, health: Health | None = None) -> None:
        self._process, self._health = process, health
        self._watched: Watched | None = None
        self._probe: EndProbe | None = None
        self.port: int | None = None

    def attach(self, watched: Watched) -> None:
        """Shows this process's figures from now on, and begins to ask the broker; nothing without a port."""
        if self._health is None:
            return
        from streams.clients.end_probe import EndProbe  # noqa: PLC0415  a process without metrics does not need it

        self._watched = watched
        self._health.start(watched.topic, watched.is_started)
        self._probe = EndProbe(watched.connector, watched.topic, watched.num_partitions, self._note_answer)

    def _note_answer(self, ends: dict[int, int]) -> None:
        assert self._health is not None and self._watched is not None  # noqa: S101, PT018  `attach` has set them
        self._health.note_answer(ends, self._watched.offsets())

    def figures(self) -> Iterator[Figure]:
        """The figures of every process, and of this one."""
        health, watched = self._health, self._watched
        yield Figure("build_info", 1, {"version": version("hotstream"), "process": self._process})
        if health is not None:
            yield Figure("ready", health.why_not_ready() is None)
            yield Figure("healthy", health.why_not_healthy() is None)
            yield Figure("broker_answer_age_seconds", health.answer_age_s)
        if watched is not None:
            yield Figure("broker_wait_seconds", watched.connector.waits.waited_s)
            yield from watched.figures()

    def close(self) -> None:
        """Stops asking the broker."""
        if self._probe is not None:
            self._probe.close()


@contextmanager
def open_monitor(process: str, *, port: int | None, host: str = "127.0.0.1") -> Iterator[ProcessMonitor]:
    """Serves the metrics and the health of this process inside the `with`, if there is a port.

    Args:
        process: the command.
        port: the port; None to serve nothing, 0 for any free port.
        host: the address to bind to.

    Raises:
        ConfigError: the port cannot be bound.
    """
    if port is None:
        yield ProcessMonitor(process)
        return
    from streams.telemetry.health import Health  # noqa: PLC0415  a process without metrics does not need them

    health = Health()
    monitor = ProcessMonitor(process, health)
    server = _serve(monitor, health, host, port)
    previous, threading.excepthook = threading.excepthook, _noting(health, threading.excepthook)
    try:
        yield monitor
    finally:
        threading.excepthook = previous
        monitor.close()
        server.close()


def _serve(monitor: ProcessMonitor, health: Health, host: str, port: int) -> MetricsServer:
    from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector  # noqa: PLC0415

    from streams.telemetry.collector import FigureCollector  # noqa: PLC0415
    from streams.telemetry.metrics_server import MetricsServer  # noqa: PLC0415

    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(FigureCollector(monitor.figures))
    server = MetricsServer(host, port, registry, health)
    monitor.port = server.port
    return server


def _noting(
    health: Health, report: Callable[[threading.ExceptHookArgs], object]
) -> Callable[[threading.ExceptHookArgs], object]:
    """Reports a thread that ended with an error as before, and notes its death."""

    def note(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_type is not SystemExit:
            health.note_death(arguments.thread.name if arguments.thread else "unknown")
        report(arguments)

    return note
