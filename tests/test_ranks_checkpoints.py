"""Checkpoints of several ranks: full disks, damaged ones, those of another number of ranks, and --fresh."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ranked_run_driver import COLUMNS, SHARDS, Driver, config_of, train
from ranks_driver import RankPool

from trainer.errors import CheckpointError, PlanError, RankError
from trainer.process.common_checkpoints import rank_directory, require_all_ranks, steps_of
from trainer.process.journal import Apply
from trainer.process.ranked_run import RankedRun
from trainer.ranks.group import Ranks


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(2) as opened:
        yield opened


def train_with_a_full_disk(ranks: Ranks, directory: Path) -> list[int]:
    """Trains ten intervals of which rank 1 saves only the first three; returns the steps that this rank has saved."""
    driver = Driver(ranks, directory)
    own = rank_directory(directory, ranks)
    driver.train(12)
    for event in range(200) if ranks.rank else ():
        (own / f".{event:012d}.part").touch()  # where a checkpoint is written to
    driver.train(40)
    for path in own.glob(".*.part"):
        path.unlink()
    assert (driver.run.progress.failed_checkpoints > 3) == (ranks.rank == 1)
    driver.describe()
    return sorted(steps for path in own.glob("0*[0-9]") if (steps := steps_of(path)) is not None)


def test_a_rank_whose_disk_is_full_does_not_cost_the_run(pool: RankPool, tmp_path: Path) -> None:
    first, second = pool.run(2, train_with_a_full_disk, tmp_path / "full")
    assert second[-1] in first
    assert len(second) == 3
    assert len(first) > 6
    assert pool.run(2, train, tmp_path / "full", 43) == pool.run(2, train, tmp_path / "unharmed", 43)


def test_the_newest_three_common_checkpoints_are_kept(tmp_path: Path) -> None:
    train(Ranks(), tmp_path, 60, True)
    assert len(list((tmp_path / "rank-0-of-1").glob("0*[0-9]"))) == 3


def test_fresh_ranks_do_not_delete_a_running_one(pool: RankPool, tmp_path: Path) -> None:
    running = RankedRun(config_of(tmp_path), SHARDS, Ranks(), COLUMNS)
    first, second = pool.run(2, refused_to_begin, tmp_path)
    assert "in use by process" in first
    assert second.startswith("rank 1 of 2: rank 0 has ended")
    assert len(list((tmp_path / "rank-0-of-1").glob("0*[0-9]"))) == 1
    running.close()
    pool.run(2, begin_anew, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank-0-of-2", "rank-1-of-2"]


def begin_anew(ranks: Ranks, directory: Path) -> None:
    RankedRun(config_of(directory), SHARDS, ranks, COLUMNS, resume=False).close()


def refused_to_begin(ranks: Ranks, directory: Path) -> str:
    """The error of beginning again; rank 1's is the end of rank 0."""
    try:
        begin_anew(ranks, directory)
    except (CheckpointError, RankError) as error:
        ranks.leave()  # as the end of the process does
        return str(error)
    return "no error"


def damage_newest(directory: Path) -> None:
    (sorted(directory.glob("0*[0-9]"))[-1] / "manifest.json").unlink()


def test_other_ranks_go_on_from_an_older_checkpoint_if_the_newest_is_damaged(pool: RankPool, tmp_path: Path) -> None:
    pool.run(2, train, tmp_path, 20)
    newest = max(steps for path in (tmp_path / "rank-1-of-2").glob("0*[0-9]") if (steps := steps_of(path)) is not None)
    damage_newest(tmp_path / "rank-1-of-2")
    run = RankedRun(config_of(tmp_path), SHARDS, Ranks(), COLUMNS)
    run.close()
    assert 0 < run.steps < newest


def test_of_two_equally_new_checkpoints_the_present_number_of_ranks_keeps_its_own(tmp_path: Path) -> None:
    train(Ranks(), tmp_path, 9)
    shutil.copytree(tmp_path / "rank-0-of-1", tmp_path / "rank-0-of-2")
    shutil.copytree(tmp_path / "rank-0-of-1", tmp_path / "rank-1-of-2")
    damage_newest(tmp_path / "rank-1-of-2")  # as a kill amid its deletion leaves it
    own = sorted((tmp_path / "rank-0-of-1").glob("0*[0-9]"))
    run = RankedRun(config_of(tmp_path), SHARDS, Ranks(), COLUMNS)
    run.close()
    assert run.steps == 9
    assert sorted((tmp_path / "rank-0-of-1").glob("0*[0-9]")) == own


def test_an_unreadable_part_of_other_ranks_deletes_nothing(tmp_path: Path) -> None:
    train(Ranks(), tmp_path, 9)
    shutil.move(tmp_path / "rank-0-of-1", tmp_path / "rank-0-of-2")
    shutil.copytree(tmp_path / "rank-0-of-2", tmp_path / "rank-1-of-2")
    for path in (tmp_path / "rank-1-of-2").glob("0*[0-9]"):
        (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="start with 2 ranks, whose checkpoints are there, or start with --fresh"):
        RankedRun(config_of(tmp_path), SHARDS, Ranks(), COLUMNS)
    assert len(list((tmp_path / "rank-0-of-2").glob("0*[0-9]"))) > 1


def test_of_two_checkpoints_after_the_same_step_the_later_is_loaded(tmp_path: Path) -> None:
    driver = Driver(Ranks(), tmp_path)
    driver.train(4)
    driver.run.checkpoint()
    shards = {shard: driver.run.offsets["assignments"].get(shard, 0) + 1 for shard in range(SHARDS)}
    driver.record(Apply(shards))
    driver.run.checkpoint()
    expected = driver.describe()
    (tmp_path / "rank-0-of-1" / ".000000000099.part").mkdir()
    assert Driver(Ranks(), tmp_path).describe() == expected
    assert not list((tmp_path / "rank-0-of-1").glob(".*.part"))


def test_folders_of_other_ranks_that_are_not_all_there_are_no_new_beginning(tmp_path: Path) -> None:
    train(Ranks(), tmp_path, 9)
    shutil.move(tmp_path / "rank-0-of-1", tmp_path / "rank-1-of-2")  # rank 0 of 2 was on another machine
    with pytest.raises(CheckpointError, match="no step has an intact checkpoint of every rank"):
        RankedRun(config_of(tmp_path), SHARDS, Ranks(), COLUMNS)
    assert (tmp_path / "rank-1-of-2").is_dir()


def test_an_export_needs_the_folders_of_all_ranks(tmp_path: Path) -> None:
    (tmp_path / "rank-0-of-3").mkdir()
    with pytest.raises(PlanError, match="does not see the folders of the ranks 1, 2 in"):
        require_all_ranks(tmp_path, 3)
    for rank in (1, 2):
        (tmp_path / f"rank-{rank}-of-3").mkdir()
    require_all_ranks(tmp_path, 3)
