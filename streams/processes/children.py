"""`hotstream` commands as child processes: started, checked, stopped."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from streams.errors import ChildError
from streams.processes.log_tail import log_tail
from streams.processes.parent_death import die_with_parent

__all__ = ["Children"]

logger = logging.getLogger(__name__)

_STOP_TIMEOUT_S = 30.0
_LOG_LINES = 20


class Children:
    """`hotstream` commands as child processes with a log file each.

    The end of the `with` sends SIGTERM to all children at once. Those that still run after `end_timeout_s` are killed,
    and all are reaped. On Linux a child also dies when this process is killed.

    Args:
        folder: the folder of the logs, `NAME.log`.
        environment: variables added to the environment of this process.
        end_timeout_s: how long all children together may take to end.

    Raises:
        ChildError: at the end, if a child had to be killed and nothing else was raised.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], *, end_timeout_s: float = 10.0) -> None:
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._end_timeout_s = end_timeout_s
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Children:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        killed = self._end_all()
        if not killed:
            return
        message = f"{', '.join(killed)} did not end within {self._end_timeout_s:g} s of SIGTERM: killed"
        if kind is None:
            raise ChildError(message)
        logger.warning("%s", message)

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Starts `hotstream ARGUMENTS...`; its output goes to its log.

        Args:
            name: the name of the child and of its log.
            arguments: the arguments of `hotstream`.
        """
        command = [sys.executable, "-m", "trainer", *arguments]
        with (self._folder / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                die_with_parent(command),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process only, which then stops its children in order
            )

    def pids(self) -> dict[str, int]:
        """The process ids of the children that `check` has not seen end, by name."""
        return {name: child.pid for name, child in self._running.items()}

    def check(self) -> set[str]:
        """The names of the children that have exited with status 0 since the last call.

        Raises:
            ChildError: a child has failed; the message holds the end of its log.
        """
        ended = set()
        for name, child in list(self._running.items()):
            code = child.poll()
            if code is None:
                continue
            del self._running[name]
            if code != 0:
                raise ChildError(self._failure(name, code))
            ended.add(name)
        return ended

    def stop(self, name: str) -> None:
        """Sends SIGTERM to a child and waits for its end; interrupted, it leaves the child to the end of the `with`.

        Raises:
            ChildError: the child does not end within 30 s and is killed, or ends with an error.
        """
        child = self._running[name]
        child.terminate()
        try:
            code = child.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            child.kill()
            child.wait()
            raise ChildError(f"{name} did not end within {_STOP_TIMEOUT_S:.0f} s of SIGTERM and was killed") from error
        del self._running[name]
        if code != 0:
            raise ChildError(self._failure(name, code))

    def _end_all(self) -> list[str]:
        """Ends and reaps every child, even if it is interrupted; returns the names of those that had to be killed."""
        deadline_s = time.monotonic() + self._end_timeout_s
        killed = []
        try:
            for child in self._running.values():
                child.terminate()
            for child in self._running.values():
                with suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.0, deadline_s - time.monotonic()))
        finally:
            for name, child in self._running.items():
                if child.poll() is None:
                    child.kill()
                    killed.append(name)
            for child in self._running.values():
                child.wait()
            self._running.clear()
        return killed

    def _failure(self, name: str, code: int) -> str:
        log = self._folder / f"{name}.log"
        return f"{name} ended with exit status {code}; the end of {log}:\n{log_tail(log, _LOG_LINES)}"
