"""A child process that cannot outlive its parent, whatever kills the parent.

`tethered(command)` starts this file first: it asks the kernel for a SIGKILL at the parent's death and then becomes
the command (exec keeps the pid and the request). A `preexec_fn` would ask the same, but runs Python between fork and
exec, which deadlocks beside threads now and then and is a warning from Python 3.12 on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["tethered"]

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


def tethered(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` under the same pid and dies with the process that starts it.

    Linux only. Elsewhere the command comes back as it is: a parent that ends in any orderly way still stops its
    children, but one that is killed with SIGKILL leaves them running.

    The kernel watches the *thread* that starts the child: start it from one that lives as long as the child should.
    """
    if sys.platform != "linux":
        return list(command)
    # -I -S: nothing but the standard library is looked at, which starts in 15 ms and cannot be shadowed.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def _become(parent_pid: int, command: Sequence[str]) -> None:
    import ctypes  # noqa: PLC0415  the importing side of this module never needs it

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before we could ask
        sys.exit(1)
    os.execvp(command[0], list(command))  # noqa: S606  becoming the command is the point


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
