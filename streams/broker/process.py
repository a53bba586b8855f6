"""A broker as a child process: start it and wait for its first response, stop it, kill it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from streams.errors import BrokerError
from streams.processes.log_tail import log_tail
from streams.processes.parent_death import die_with_parent

__all__ = ["BrokerCommand", "BrokerProcess", "free_port"]

_HOST = "127.0.0.1"  # a broker without authentication listens on the loopback interface only
_POLL_S = 0.02
_CORRELATION_ID = 0x68735F70  # arbitrary; a server of another protocol does not return it
# Kafka's Metadata request, version 1, for no topics: length, api key 3, version, correlation id, null client id, no
# topics. The response begins with length, correlation id and the number of live brokers.
_METADATA_REQUEST = struct.pack(">ihhihi", 14, 3, 1, _CORRELATION_ID, -1, 0)
_METADATA_RESPONSE = struct.Struct(">iii")


def free_port() -> int:
    """A TCP port of this machine that is free at the time of the call."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    """Whether a server on this port speaks Kafka's protocol and reports at least one live broker.

    It does not use kafka-python, whose clients log an error at every failed attempt and leave a thread and sockets.
    """
    try:
        with socket.create_connection((_HOST, port), timeout=1.0) as connection:
            connection.sendall(_METADATA_REQUEST)
            response = connection.recv(_METADATA_RESPONSE.size, socket.MSG_WAITALL)
    except OSError:
        return False
    if len(response) < _METADATA_RESPONSE.size:
        return False
    _, correlation_id, num_brokers = _METADATA_RESPONSE.unpack(response)
    return correlation_id == _CORRELATION_ID and num_brokers > 0


@dataclass(frozen=True, kw_only=True)
class BrokerCommand:
    """The command line of a broker and its surroundings; engines make it, and `BrokerProcess` runs it.

    Args:
        name: the name in messages.
        arguments: program and arguments.
        port: the TCP port of the broker on 127.0.0.1.
        folder: its working directory, which no other process uses; it also holds the log.
        prepare: prepares the folder; called before every start, while the folder is locked.
        grace_s: the time from SIGTERM to SIGKILL.
    """

    name: str
    arguments: Sequence[str]
    port: int
    folder: Path
    prepare: Callable[[], None] = lambda: None
    grace_s: float = 30.0


class BrokerProcess:
    """A broker process that can be started and stopped repeatedly, always with the same port and folder.

    Guarantees: after `start` the broker accepts requests; after `stop` or `kill` its process has ended and is reaped;
    on Linux it also dies when this process is killed (see `streams.processes.parent_death`). It runs in its own
    session, so that Ctrl-C on the terminal reaches this process only. POSIX only.

    Args:
        command: the command to run.
    """

    def __init__(self, command: BrokerCommand) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """The name in messages."""
        return self._command.name

    @property
    def bootstrap_servers(self) -> str:
        """`HOST:PORT` for Kafka clients."""
        return f"{_HOST}:{self._command.port}"

    @property
    def port(self) -> int:
        """The TCP port of the broker."""
        return self._command.port

    @property
    def log_path(self) -> Path:
        """The log: the output of all its runs in this folder."""
        return self._command.folder / "broker.log"

    @property
    def pid(self) -> int:
        """The process id of the current run, or of the last one.

        Raises:
            BrokerError: the broker was never started.
        """
        if self._process is None:
            raise BrokerError(f"{self.name} has no pid: it was never started; call start() first")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, deadline_s: float = 60.0) -> None:
        """Starts the broker and returns when it accepts requests.

        Args:
            deadline_s: the maximum time to the first response.

        Raises:
            BrokerError: the port or the folder is in use, the process ended (with the end of its log), or the deadline
                passed.
        """
        if self.is_running:
            raise BrokerError(f"{self.name} is already running as process {self.pid}; call stop() first")
        self._require_free_port()
        with self._locked_folder() as lock, self.log_path.open("ab") as log:
            self._command.prepare()
            self._process = subprocess.Popen(
                die_with_parent(self._command.arguments),
                cwd=self._command.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],  # so that the lock lasts exactly as long as the broker
                start_new_session=True,
            )
        try:
            self._wait_for_answer(self._process, deadline_s)
        except BaseException:
            self.kill()
            raise

    def wait(self) -> None:
        """Waits until the process ends by itself, which is an error; returns if it was never started.

        Raises:
            BrokerError: the process ended; the message holds the end of its log.
        """
        if self._process is not None:
            code = self._process.wait()
            raise BrokerError(self._exit_message(code))

    def stop(self) -> None:
        """Sends SIGTERM, and SIGKILL after the grace period or when interrupted; returns when the process has ended."""
        try:
            if self._process is not None and self.is_running:
                self._signal(self._process, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(self._command.grace_s)
        finally:
            self.kill()

    def kill(self) -> None:
        """Sends SIGKILL, like a power failure; returns when the process has ended."""
        if self._process is not None and self.is_running:
            self._signal(self._process, signal.SIGKILL)
            self._process.wait()

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)  # it leads its session, so the id of its process group is its pid

    def _require_free_port(self) -> None:
        with socket.socket() as probe:
            # Like the brokers' own sockets: a port whose old connections are in TIME_WAIT counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, self.port))
            except OSError as error:
                raise BrokerError(
                    f"{self.name} cannot listen on port {self.port}: {error.strerror}; stop what uses the port, or "
                    "choose another with --port"
                ) from error

    @contextmanager
    def _locked_folder(self) -> Iterator[int]:
        """The file descriptor of the folder's lock file; the lock lasts until its last duplicate is closed.

        Kafka's own lock is too late: before it fails, a second broker has written to the metadata log of the first.
        """
        with (self._command.folder / "lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise BrokerError(
                    f"{self.name} cannot use {self._command.folder}: another broker runs there; stop that broker, or "
                    "choose another folder with --data-dir"
                ) from error
            yield file.fileno()

    def _wait_for_answer(self, process: subprocess.Popen[bytes], deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        while not (process.poll() is None and _answers(self.port)):
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(_POLL_S)
                raise BrokerError(self._exit_message(code))
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"{self.name} did not answer on {self.bootstrap_servers} within {deadline_s:g} s; the end of its "
                    f"log ({self.log_path}):\n{log_tail(self.log_path)}"
                )

    def _exit_message(self, code: int) -> str:
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{self.name} {cause}; the end of its log ({self.log_path}):\n{log_tail(self.log_path)}"
