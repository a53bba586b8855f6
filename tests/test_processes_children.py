"""Child processes end with the `with` that started them: together, in bounded time, and all of them reaped."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from streams.errors import ChildError
from streams.processes.children import Children

# `generate` writes to a file for minutes; what it does does not matter here.
ENDLESS = ("generate", "--rows", "100000000", "--out")


def pids() -> list[int]:
    """The children of this process's main thread."""
    return [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]


def start_endless(children: Children, folder: Path, *names: str) -> list[int]:
    before = set(pids())
    for name in names:
        children.start(name, [*ENDLESS, str(folder / f"{name}.tsv")])
    return [pid for pid in pids() if pid not in before]


def freeze(started: list[int]) -> None:
    """Makes the children deaf to SIGTERM, as a machine does that has no time for them."""
    for pid in started:
        os.kill(pid, signal.SIGSTOP)
        while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
            continue  # until it is stopped, a SIGTERM would come first


def are_gone(started: list[int]) -> bool:
    """Whether the children are reaped: an unreaped one would still be listed."""
    return not set(started) & set(pids())


def test_children_that_end_in_order_leave_no_error(tmp_path):
    with Children(tmp_path, {}) as children:
        started = start_endless(children, tmp_path, "a", "b")
    assert len(started) == 2
    assert are_gone(started)


def test_children_that_do_not_end_are_killed_after_one_timeout_for_all(tmp_path):
    started: list[int] = []

    def run() -> None:
        with Children(tmp_path, {}, end_timeout_s=1.0) as children:
            started.extend(start_endless(children, tmp_path, "a", "b", "c"))
            freeze(started)

    began_s = time.monotonic()
    with pytest.raises(ChildError, match=r"^a, b, c did not end within 1 s of SIGTERM: killed$"):
        run()
    assert time.monotonic() - began_s < 2.9  # three timeouts would be 3 s
    assert are_gone(started)


def test_an_error_under_way_is_not_replaced_by_that_of_a_child(tmp_path, caplog):
    def run() -> None:
        with Children(tmp_path, {}, end_timeout_s=0.1) as children:
            freeze(start_endless(children, tmp_path, "a"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert "a did not end within 0.1 s of SIGTERM: killed" in caplog.text


def test_a_stop_that_is_interrupted_leaves_the_child_to_the_end(tmp_path):
    started: list[int] = []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def run() -> None:
        with Children(tmp_path, {}, end_timeout_s=0.1) as children:
            started.extend(start_endless(children, tmp_path, "a"))
            freeze(started)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            children.stop("a")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            run()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert are_gone(started)


def test_a_child_that_fails_is_reported_with_the_end_of_its_log(tmp_path):
    with Children(tmp_path, {}) as children:
        children.start("bad", ["generate", "--no-such-option"])

        def check_until_it_fails() -> None:
            while True:
                children.check()

        with pytest.raises(ChildError, match=r"bad ended with exit status 2(?s:.*)no-such-option"):
            check_until_it_fails()
