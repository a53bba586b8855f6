"""`torchrun --max-restarts --fresh`: an attempt that fails before it begins leaves the beginning to the next one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer.ranks.group import next_meeting

_RANK = """
import os, sys, torch
from trainer.ranks.attempts import Attempts
from trainer.ranks.group import join_launched

ranks = join_launched(torch.device("cpu"))
attempts, count = Attempts(ranks), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
with open(f"{sys.argv[1]}/{count}-{ranks.rank}", "w") as file:
    file.write(str(attempts.has_begun()))
if count == 1:
    attempts.note_beginning()
ranks.gather([0])
ranks.leave()
sys.exit(count < 2)
"""


def test_only_a_beginning_counts_as_one(tmp_path: Path) -> None:
    script, out = tmp_path / "rank.py", tmp_path / "out"
    script.write_text(_RANK)
    out.mkdir()
    launch = "-m torch.distributed.run --standalone --max-restarts 2 --nproc-per-node 2 --monitor-interval 0.1"
    done = subprocess.run(
        [sys.executable, *launch.split(), str(script), str(out)],
        check=False, timeout=150, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    begun = [[(out / f"{attempt}-{rank}").read_text() for rank in range(2)] for attempt in range(3)]
    assert begun == [["False"] * 2, ["False"] * 2, ["True"] * 2]


def test_ranks_of_several_machines_meet_at_a_number_that_none_has_used(monkeypatch: pytest.MonkeyPatch) -> None:
    store = torch.distributed.HashStore()

    def come(rank: int) -> int:
        monkeypatch.setenv("RANK", str(rank))
        return next_meeting(store)

    monkeypatch.setenv("WORLD_SIZE", "3")
    assert [come(rank) for rank in (0, 1, 2)] == [1, 1, 1]
    assert [come(rank) for rank in (1, 1, 0, 2)] == [2, 3, 3, 3]  # rank 1 was killed again while it waited
    assert [come(rank) for rank in (2, 0, 1)] == [4, 4, 4]
