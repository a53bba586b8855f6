"""`Supervised`: a `hotstream` command that is started again whenever it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streams.processes.parent_death import die_with_parent

__all__ = ["Ending", "Supervised", "is_expected"]

_START_GRACE_S = 25.0
_NO_BROKER = "no broker answered"  # a process waits without end only for a broker that has answered it once
_STOPPED_MEANWHILE = "stopped while the broker"  # asked to end while the broker is away, a process ends with code 1
_TAKEN_OVER = "another run of this replay took over"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The end of a process that nobody asked for.

    Attributes:
        name: the name of the process.
        code: its exit code; negative for a signal.
        last_line: the last line of its log.
        has_traceback: whether it logged a traceback.
        age_s: how long it ran.
    """

    name: str
    code: int
    last_line: str
    has_traceback: bool
    age_s: float


def is_expected(ending: Ending, since_trouble_s: float, *, has_two_replays: bool) -> bool:
    """Whether a process must end so: it started or was asked to end without a broker, or another replay took over.

    Args:
        ending: how it ended.
        since_trouble_s: the time from the last disturbance to the start of the process.
        has_two_replays: whether a replay was started while its run before was alive; either may take over.
    """
    if _NO_BROKER in ending.last_line:
        return since_trouble_s < _START_GRACE_S
    return _STOPPED_MEANWHILE in ending.last_line or (has_two_replays and _TAKEN_OVER in ending.last_line)


class Supervised:
    """A command in a process of its own, whose log is `NAME.log`. It dies with this process.

    Args:
        name: the name of the process.
        arguments: the arguments of `hotstream`.
        folder: the folder of the log.

    Attributes:
        num_starts: how often it was started.
    """

    def __init__(self, name: str, arguments: Sequence[object], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.num_starts = 0
        self._command = die_with_parent([sys.executable, "-m", "trainer", *map(str, arguments)])
        self._process: subprocess.Popen[bytes] | None = None
        self._is_wanted = False
        self._started_s = 0.0
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """The process id; None if it does not run."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> None:
        """Starts the process, unless it runs."""
        self._is_wanted = True
        if self.pid is not None:
            return
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._started_s = time.monotonic()
        self.num_starts += 1
        with self.log.open("ab") as file:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )

    def look(self) -> Ending | None:
        """Starts the process again if it has ended by itself, and returns how; None if it runs or should not."""
        if self._process is None or not self._is_wanted or (code := self._process.poll()) is None:
            return None
        ending = self._describe(code)
        self._process = None
        if code == 0:
            self._is_wanted = False
        else:
            self.start()
        return ending

    def kill(self) -> None:
        """Kills the process, as a power failure would; it stays away until `start`."""
        self._is_wanted = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def release(self) -> None:
        """Lets the process run, and does not start it again."""
        self._is_wanted = False

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if the process runs."""
        if self.pid is not None:
            os.kill(self.pid, number)

    def stop(self, *, timeout_s: float = 60.0) -> Ending | None:
        """Asks the process to end; returns how it ended if that was not within the time, or with another code than 0.

        A replay that ends early has the code of the signal.
        """
        self._is_wanted = False
        if self._process is None or self.pid is None:
            return None
        self._process.terminate()
        self.send(signal.SIGCONT)  # in case it is stopped
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            code = -signal.SIGKILL
        return None if code in (0, 128 + signal.SIGTERM, -signal.SIGTERM) else self._describe(code)

    def read_log(self) -> str:
        """What the present run has logged, or the last one."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def _describe(self, code: int) -> Ending:
        text = self.read_log()
        lines = [line for line in text.splitlines() if line.strip()]
        return Ending(
            name=self.name,
            code=code,
            last_line=lines[-1][:400] if lines else "",
            has_traceback="Traceback" in text,
            age_s=time.monotonic() - self._started_s,
        )
