"""The demo's child processes: started, watched, and gone when the demo is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from streams.errors import ChildError
from streams.processes.log_tail import log_tail
from streams.processes.tether import tethered

__all__ = ["Children"]

_STOP_TIMEOUT_S = 30.0
_LOG_LINES = 20


class Children:
    """`hotstream` commands as child processes with a log file each.

    A child ends with this process, however that ends (on Linux even by SIGKILL).

    Args:
        folder: where the logs go, as `NAME.log`.
        environment: added to this process's own.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Children:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for name in list(self._running):
            self._running[name].terminate()
        for name in list(self._running):
            self._end(name, self._running.pop(name))

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Starts `hotstream ARGUMENTS...`; what it prints goes to its log."""
        command = [sys.executable, "-m", "trainer", *arguments]
        with (self._folder / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                tethered(command),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for the demo alone, which then stops its children in order
            )

    def check(self) -> set[str]:
        """The names of the children that have ended well since they were started; they are forgotten.

        Raises:
            ChildError: one has failed; the message has the end of its log.
        """
        ended = set()
        for name, child in list(self._running.items()):
            code = child.poll()
            if code is None:
                continue
            del self._running[name]
            if code != 0:
                raise ChildError(self._say_failed(name, code))
            ended.add(name)
        return ended

    def stop(self, name: str) -> None:
        """Asks a child to end and waits for it.

        Raises:
            ChildError: it does not within 30 s, or ends with an error.
        """
        child = self._running.pop(name)
        child.send_signal(signal.SIGTERM)
        code = self._end(name, child)
        if code != 0:
            raise ChildError(self._say_failed(name, code))

    @staticmethod
    def _end(name: str, child: subprocess.Popen[bytes]) -> int:
        try:
            return child.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            child.kill()
            child.wait()
            raise ChildError(f"{name} did not end within {_STOP_TIMEOUT_S:.0f} s of SIGTERM and was killed") from error

    def _say_failed(self, name: str, code: int) -> str:
        log = self._folder / f"{name}.log"
        return f"{name} ended with exit status {code}; the end of {log}:\n{log_tail(log, _LOG_LINES)}"
