"""Waiting in tests: for a fact, with a deadline, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(is_so: Callable[[], object], *, timeout_s: float) -> None:
    """Returns when `is_so()` is true; fails after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, f"not so after {timeout_s:.0f} s"
        time.sleep(0.02)  # polls, so that the processes that are waited for have the cores
