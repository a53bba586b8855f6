"""The demo's child processes: started, watched, and gone when the demo is gone."""

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
from streams.processes.tether import tethered

__all__ = ["Children"]

logger = logging.getLogger(__name__)

_STOP_TIMEOUT_S = 30.0
_LOG_LINES = 20


class Children:
    """`hotstream` commands as child processes with a log file each.

    A child ends with this process, however that ends (on Linux even by SIGKILL). At the end of the `with`, all get
    SIGTERM at once, and together `end_timeout_s` to end in order; those that then still run are killed, and all are
    reaped. That raises if nothing else does.

    Args:
        folder: where the logs go, as `NAME.log`.
        environment: added to this process's own.
        end_timeout_s: how long all children together may take to end.

    Raises:
        ChildError: at the end, if a child had to be killed.
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
        """Asks a child to end and waits for it; interrupted, it leaves the child to the end of the `with`.

        Raises:
            ChildError: it does not end within 30 s and is killed, or ends with an error.
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
            raise ChildError(self._say_failed(name, code))

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

    def _say_failed(self, name: str, code: int) -> str:
        log = self._folder / f"{name}.log"
        return f"{name} ended with exit status {code}; the end of {log}:\n{log_tail(log, _LOG_LINES)}"
