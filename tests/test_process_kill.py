"""Killed at random moments, of training and of writing checkpoints, a run ends in the weights of an unharmed one."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from trainer_driver import drive

STEPS, KILLS = 40, 30


def _child(directory: Path, steps: int) -> int:
    """A process that trains; forked, so that it need not import torch anew."""
    process = os.fork()
    if process == 0:
        try:
            drive(directory, steps)
        finally:
            os._exit(0)
    return process


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_thirty_kills_end_in_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = drive(None, STEPS)
        rng, kills, landed = random.Random(5), 0, set()
        directory, started_s = tmp_path / "0", time.monotonic()
        while kills < KILLS:
            child = _child(directory, STEPS)
            time.sleep(rng.uniform(0.01, 0.35))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            kills += os.WIFSIGNALED(status)
            names = {path.name for path in directory.iterdir()} if directory.exists() else set()
            landed.add("while writing" if any(name.endswith(".part") for name in names) else "while training")
            if os.WIFEXITED(status) or kills % 10 == 0:
                assert drive(directory, STEPS) == expected
                directory = tmp_path / str(time.monotonic_ns())
            assert time.monotonic() - started_s < 200
        assert drive(directory, STEPS) == expected
        assert "while training" in landed
    finally:
        torch.set_num_threads(threads)
