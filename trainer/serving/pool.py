"""`Pool`: the processes of `hotstream serve --workers N`.

    this process    holds the port, starts the others and starts them again
    writer          follows the topic, and shares its rows
    worker 1 to N   map the rows, and answer on the port

A process that was killed by a signal is started again; one that ended by itself had a reason, which it has said, and
ends all. Requests wait in the queue of the port meanwhile. All die with this process.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from streams.errors import ConfigError
from streams.processes.parent_death import die_with_parent
from trainer.errors import ReplicaError

__all__ = ["WRITER", "Member", "Pool", "bind"]

logger = logging.getLogger(__name__)

WRITER = "writer"
_LOOK_S, _PAUSE_S, _END_S, _BACKLOG = 0.1, 1.0, 10.0, 1024


@dataclass(frozen=True, kw_only=True)
class Member:
    """What a process of a pool is told.

    Attributes:
        role: `writer`, or `worker-1` and so on.
        share: the name of the shared rows.
        port_file: the descriptor of the listening socket.
        folder: of the sockets for metrics.
    """

    role: str
    share: str
    port_file: int
    folder: Path

    def to_text(self) -> str:
        """As an option of the command."""
        return f"{self.role}:{self.share}:{self.port_file}:{self.folder}"

    @classmethod
    def from_text(cls, text: str) -> Member:
        """From `to_text`."""
        role, share, file, folder = text.split(":", 3)
        return cls(role=role, share=share, port_file=int(file), folder=Path(folder))

    @property
    def metrics_path(self) -> Path:
        """The socket of its metrics."""
        return self.folder / f"{self.role}.sock"


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the port cannot be bound.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: got {error}, expected a free port of this machine") from error


class Pool:
    """Starts the processes, and ends them.

    Args:
        count: N.
        arguments: those of `hotstream`, to which `--pool-member` is added.
        port: the listening socket.
        folder: an empty folder of this user alone.
    """

    def __init__(self, count: int, arguments: Sequence[str], port: socket.socket, folder: Path) -> None:
        self._arguments, self._port, self._folder = arguments, port, folder
        self._share = f"serve-{port.getsockname()[1]}"  # the next one on the port removes what a killed one has left
        threads = str(max(1, (os.cpu_count() or 1) // count))
        self._environment = {"OMP_NUM_THREADS": threads, **os.environ}  # else each worker would take every core
        self._roles = [WRITER, *(f"worker-{number}" for number in range(1, count + 1))]
        self._running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Keeps the processes running until it should stop; then ends them.

        Raises:
            ReplicaError: one has ended by itself.
        """
        try:
            while not should_stop():
                for role in self._roles:
                    self._look(role, should_stop)
                time.sleep(_LOOK_S)
        finally:
            self._end()

    def _look(self, role: str, should_stop: Callable[[], bool]) -> None:
        """Starts a process that does not run."""
        if role in self._running:
            process, started_s = self._running[role]
            if (code := process.poll()) is None or time.monotonic() - started_s < _PAUSE_S or should_stop():
                return
            if code >= 0:
                raise ReplicaError(f"serve: the {role} ended with code {code}, so all end; its own line has the reason")
            logger.warning("serve: the %s was killed by %s; starting it again", role, signal.Signals(-code).name)
        member = Member(role=role, share=self._share, port_file=self._port.fileno(), folder=self._folder)
        command = [sys.executable, "-m", "trainer", *self._arguments, "--pool-member", member.to_text()]
        process = subprocess.Popen(
            die_with_parent(command), env=self._environment, stdin=subprocess.DEVNULL,
            pass_fds=[self._port.fileno()], start_new_session=True,
        )  # fmt: skip
        self._running[role] = process, time.monotonic()
        logger.info("serve: the %s is process %d", role, process.pid)

    def _end(self) -> None:
        """Ends all, workers first, so that none sees the writer go."""
        end_s = time.monotonic() + _END_S
        for role in reversed(self._running):
            self._running[role][0].terminate()
        for process, _ in self._running.values():
            try:
                process.wait(max(0.1, end_s - time.monotonic()))
            except subprocess.TimeoutExpired:  # noqa: PERF203  a few processes
                logger.warning("serve: process %d did not end within %.0f s: killed", process.pid, _END_S)
                process.kill()
                process.wait()
