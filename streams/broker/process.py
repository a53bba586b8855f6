"""One broker as a child process of ours: started, waited for until it answers, stopped, killed by its own pid."""

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
from types import TracebackType

from streams.errors import BrokerError
from streams.processes.log_tail import log_tail
from streams.processes.tether import tethered

__all__ = ["BrokerCommand", "BrokerProcess", "free_port"]

_HOST = "127.0.0.1"  # a broker without authentication listens to this machine alone
_POLL_S = 0.02
_CORRELATION_ID = 0x68735F70  # any number; a listener that is no broker does not send it back in its place
# Kafka's Metadata request, version 1, for no topic at all: length, then api key 3, version, correlation id, no
# client id, no topics. Its answer begins with length, correlation id and the number of brokers that are alive.
_METADATA_REQUEST = struct.pack(">ihhihi", 14, 3, 1, _CORRELATION_ID, -1, 0)
_METADATA_ANSWER = struct.Struct(">iii")


def free_port() -> int:
    """A TCP port of this machine that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    """True if a broker speaks Kafka's protocol there and counts at least one broker as alive.

    By hand rather than with kafka-python: a client of theirs that cannot connect logs an error at every attempt and
    leaves its thread and sockets behind.
    """
    try:
        with socket.create_connection((_HOST, port), timeout=1.0) as connection:
            connection.sendall(_METADATA_REQUEST)
            answer = connection.recv(_METADATA_ANSWER.size, socket.MSG_WAITALL)
    except OSError:
        return False
    if len(answer) < _METADATA_ANSWER.size:
        return False
    _, correlation_id, num_brokers = _METADATA_ANSWER.unpack(answer)
    return correlation_id == _CORRELATION_ID and num_brokers > 0


@dataclass(frozen=True, kw_only=True)
class BrokerCommand:
    """What to run for a broker; engines make it, `BrokerProcess` runs it.

    Args:
        name: what messages call it.
        arguments: program and arguments.
        port: where it will listen, on this machine only.
        folder: its working directory, its own alone; the log goes there too.
        prepare: makes the folder ready, before every start, while no other broker can use it.
        grace_s: how long it may take to end by itself before it is killed.
    """

    name: str
    arguments: Sequence[str]
    port: int
    folder: Path
    prepare: Callable[[], None] = lambda: None
    grace_s: float = 30.0


class BrokerProcess:
    """A broker that runs from `start` to `stop` or `kill`, as often as wanted, always on one port and one folder.

    Guarantees: after `start` it answers; after `stop` and `kill` its process is gone and reaped; on Linux it is gone
    too when this process is killed (see `streams.processes.tether`). It has a session of its own, so Ctrl-C on our
    terminal reaches us alone and we stop it in order. POSIX only.

    Args:
        command: what to run.
    """

    def __init__(self, command: BrokerCommand) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self._command.name

    @property
    def bootstrap_servers(self) -> str:
        """`HOST:PORT` for Kafka clients."""
        return f"{_HOST}:{self._command.port}"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._command.port

    @property
    def log_path(self) -> Path:
        """Everything that it has printed since its folder was made."""
        return self._command.folder / "broker.log"

    @property
    def pid(self) -> int:
        """The process id of the broker that runs now, or ran last.

        Raises:
            BrokerError: it was never started.
        """
        if self._process is None:
            raise BrokerError(f"{self.name} has no pid: it was never started; call start() first")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """True while its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, deadline_s: float = 60.0) -> None:
        """Run it; returns when it answers.

        Raises:
            BrokerError: the port or the folder is taken, the process ended (with the end of its log), or no answer in
                time.
        """
        if self.is_running:
            raise BrokerError(f"{self.name} runs already, as process {self.pid}; stop() it first")
        self._require_free_port()
        with self._locked_folder() as lock, self.log_path.open("ab") as log:
            self._command.prepare()
            self._process = subprocess.Popen(
                tethered(self._command.arguments),
                cwd=self._command.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],  # so the lock lasts exactly as long as the broker
                start_new_session=True,
            )
        try:
            self._wait_for_answer(self._process, deadline_s)
        except BaseException:
            self.kill()
            raise

    def wait(self) -> None:
        """Return never, as long as the broker lives.

        Raises:
            BrokerError: it ended by itself; with the end of its log.
        """
        if self._process is not None:
            code = self._process.wait()
            raise BrokerError(self._obituary(code))

    def stop(self) -> None:
        """End it in order (SIGTERM), by force after its grace period or if interrupted; returns when it is gone."""
        try:
            if self._process is not None and self.is_running:
                self._signal(self._process, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(self._command.grace_s)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it at once, as a power cut would (SIGKILL); returns when it is gone."""
        if self._process is not None and self.is_running:
            self._signal(self._process, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> BrokerProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)  # it leads its own session, so its group has its pid

    def _require_free_port(self) -> None:
        with socket.socket() as probe:
            # As brokers do it: a port that only waits for old connections to time out counts as free.
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
        """The descriptor of the folder's lock file, locked until its last copy is closed.

        Kafka locks its folder too, but only after a second one has written to the metadata log of the first.
        """
        with (self._command.folder / "lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise BrokerError(
                    f"{self.name} cannot use {self._command.folder}: another broker runs there; stop that one, or "
                    "choose another folder with --data-dir"
                ) from error
            yield file.fileno()

    def _wait_for_answer(self, process: subprocess.Popen[bytes], deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        while not (process.poll() is None and _answers(self.port)):
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(_POLL_S)
                raise BrokerError(self._obituary(code))
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"{self.name} did not answer on {self.bootstrap_servers} within {deadline_s:g} s; the end of its "
                    f"log ({self.log_path}):\n{log_tail(self.log_path)}"
                )

    def _obituary(self, code: int) -> str:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{self.name} {how}; the end of its log ({self.log_path}):\n{log_tail(self.log_path)}"
