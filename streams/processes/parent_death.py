"""A child process that dies with its parent, even if the parent is killed.

The command line of `die_with_parent` runs this file: it requests a SIGKILL at the parent's death from the kernel and
then executes the command; exec keeps the pid and the request. A `preexec_fn` could request the same, but it runs Python
between fork and exec, which can deadlock in a process with threads and is deprecated since Python 3.12.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


def die_with_parent(command: Sequence[str]) -> list[str]:
    """The command line of a child that runs `command` and is killed when its parent dies.

    Linux only; on other systems it returns the command unchanged, and a parent that is killed with SIGKILL leaves its
    children running.

    The kernel ties the child to the *thread* that starts it: that thread must live as long as the child.
    """
    if sys.platform != "linux":
        return list(command)
    # -I -S: only the standard library is on the path, so the start takes 15 ms and no module can shadow another.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def _execute(parent_pid: int, command: Sequence[str]) -> None:
    import ctypes  # noqa: PLC0415  needed in the child only

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # the parent died before the request
        sys.exit(1)
    os.execvp(command[0], list(command))  # noqa: S606  no shell is wanted


if __name__ == "__main__":
    _execute(int(sys.argv[1]), sys.argv[2:])
