"""Checkpoints and journals of several ranks, without a broker: they resume alike, and with another number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks_driver import RankPool, digest_of
from trainer_batches import click_batch

from sketch.hashing import shard_of
from streams.assignments.columns import Fetch
from streams.assignments.row_ranges import rows_of_shard
from streams.records import Assignment
from trainer.errors import CheckpointError, RankError
from trainer.learning.model_config import ModelConfig
from trainer.process.click_steps import merge_clicks
from trainer.process.common_checkpoints import rank_directory, steps_of
from trainer.process.journal import Apply, Event, TrainTogether
from trainer.process.ranked_run import RankedRun
from trainer.process.run import RunConfig, TrainingRun
from trainer.ranks.group import Ranks

SHARDS, PARTITIONS, CAPACITY, ROWS = 4, 4, 60, 24
COLUMNS = (click_batch(1, 0).fields, 2)


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(4) as opened:
        yield opened


def config_of(directory: Path) -> RunConfig:
    model = ModelConfig(capacity_rows=CAPACITY, dim=8, row_format="int8")
    return RunConfig(model=model, device=torch.device("cpu"), checkpoint_dir=directory, checkpoint_every=6 * ROWS)


def changes_of(shard: int, seq: int) -> Fetch:
    """The assignment of a shard with this seq."""
    keys = np.unique(click_batch(400, 3).keys)
    own = keys[shard_of(keys, SHARDS) == shard]
    first, count = rows_of_shard(CAPACITY, SHARDS, shard)
    key, row = int(own[seq % len(own)]), first + seq % count
    return Fetch(
        partition=shard,
        records=[Assignment(key=key, tier="hot", row=row, shard=shard, epoch=1, seq=seq, score=1.0)],
        offsets=[seq - 1],
    )


class Driver:
    """One rank: follows an assignment of each of its shards now and then, and has a click record in most steps."""

    def __init__(self, ranks: Ranks, directory: Path) -> None:
        self.ranks, self.run = ranks, RankedRun(config_of(directory), SHARDS, ranks, COLUMNS)
        while (event := self.run.journal.next_scripted()) is not None:
            self._perform(event)

    def train(self, last_step: int) -> None:
        clicks, assignments = self.run.offsets["clicks"], self.run.offsets["assignments"]
        while (step := self.run.steps) < last_step:
            if (step + self.ranks.rank) % 3 == 0:
                shards = [shard for shard in range(SHARDS) if self.ranks.owns(shard)]
                self._record(Apply({shard: assignments.get(shard, 0) + 1 for shard in shards}))
            self._record(TrainTogether(self._next(clicks, step)))

    def _next(self, clicks: dict[int, int], step: int) -> tuple[tuple[int, int], ...]:
        if (step + self.ranks.rank) % 4 == 0 and self.ranks.world > 1:
            return ()
        partition = min((p for p in range(PARTITIONS) if self.ranks.owns(p)), key=lambda p: clicks.get(p, 0))
        return ((partition, clicks.get(partition, 0)),)

    def journal_next(self) -> None:
        """Writes the next step to the journal, as a rank does that is killed before it can make it."""
        self.run.journal.record(TrainTogether(self._next(self.run.offsets["clicks"], self.run.steps)))

    def _record(self, event: Event) -> None:
        self.run.journal.record(event)
        self._perform(event)

    def _perform(self, event: Event) -> None:
        run = self.run
        if isinstance(event, Apply):
            for shard, end in event.ends.items():
                run.apply([changes_of(shard, end)])
                run.offsets["assignments"][shard] = end
            return
        assert isinstance(event, TrainTogether)
        batches = [click_batch(ROWS, 1000 * partition + offset) for partition, offset in event.records]
        batch = merge_clicks(batches) if batches else run.nothing()
        report = run.start(batch, record_rows=[ROWS] * len(batches)).finish()
        for partition, offset in event.records:
            run.progress.count_step(report, batch, 1, "a batch")
            run.offsets["clicks"][partition] = offset + 1
        if run.is_due and run.agree_to_save() and (captured := run.capture()) is not None:
            run.write(captured)

    def describe(self) -> dict[str, Any]:
        """What this rank predicts for a fixed batch, what it has, and closes the run."""
        run, batch = self.run, click_batch(50, 777)
        assert run.trainer is not None
        with torch.no_grad():
            vectors = run.trainer.embedding(torch.from_numpy(batch.keys.view(np.int64).copy()))
            logits = run.trainer.learners["adaptive"].model(torch.from_numpy(batch.dense), vectors)
        run.close()
        return {
            "logits": logits.numpy().tobytes(),
            "digest": digest_of(run.trainer.tensors()),
            "steps": run.steps,
            "rows": run.progress.rows,
            "clicks": run.offsets["clicks"],
            "hot": run.trainer.embedding.num_hot,
            "tables": run.history.num_hot,
        }


def train(ranks: Ranks, directory: Path, last_step: int, is_killed: bool = False) -> dict[str, Any]:
    """Trains to a step; writes a checkpoint at the end, or none and, on rank 0, one line too many."""
    driver = Driver(ranks, directory)
    driver.train(last_step)
    if not is_killed:
        driver.run.checkpoint()
    elif ranks.rank == 0:
        driver.journal_next()
    return driver.describe()


def test_ranks_that_were_killed_end_bit_for_bit_as_others(pool: RankPool, tmp_path: Path) -> None:
    expected = pool.run(2, train, tmp_path / "unharmed", 23)
    pool.run(2, train, tmp_path / "killed", 16, True)
    newest = sorted((tmp_path / "killed" / "rank-1-of-2").glob("0*[0-9]"))[-1]
    (newest / "state.json").write_bytes(b"{")  # the checkpoint of one rank alone does not count
    assert pool.run(2, train, tmp_path / "killed", 23) == expected
    assert expected[0]["steps"] == 23
    assert expected[0]["clicks"].keys() | expected[1]["clicks"].keys() == set(range(PARTITIONS))


def test_another_number_of_ranks_predicts_the_same_bit_for_bit(pool: RankPool, tmp_path: Path) -> None:
    steps, seen = 0, []
    for world in (1, 2, 4, 1):
        before = pool.run(world, train, tmp_path, steps)  # resumes only
        seen.append([one["logits"] for one in before])
        steps += 9
        after = pool.run(world, train, tmp_path, steps)
        assert len({one["logits"] for one in after}) == 1
        seen.append([one["logits"] for one in after])
        assert all(one["hot"] == one["tables"] for one in after)
        assert sum(one["rows"] for one in after) == ROWS * sum(sum(one["clicks"].values()) for one in after)
    for trained, resumed in zip(seen[1::2], seen[2::2], strict=False):
        assert set(resumed) == set(trained)
    assert len({one for each in seen for one in each}) == 5  # untrained, and after each of four trainings
    assert [path.name for path in tmp_path.iterdir()] == ["rank-0-of-1"]


def test_a_step_without_any_good_click_record_changes_nothing(tmp_path: Path) -> None:
    run = RankedRun(config_of(tmp_path), SHARDS, Ranks(), COLUMNS)
    run.start(click_batch(ROWS, 0)).finish()
    assert run.trainer is not None
    before = digest_of(run.trainer.tensors())
    run.train_nothing()
    assert digest_of(run.trainer.tensors()) == before
    assert (run.steps, run.rows_in_all, run.progress.refused_steps) == (2, ROWS, 0)
    assert not run.start(click_batch(ROWS, 1)).finish().diverged
    run.close()


def diverge_twice_and_recover(ranks: Ranks, directory: Path) -> list[int]:
    """The refusals in a row that this rank counts after each step; rank 1 has no clicks."""
    run, counts = RankedRun(config_of(directory), SHARDS, ranks, COLUMNS), []
    for factor in (np.inf, np.inf, 1, np.inf, np.inf):
        batch = replace(click_batch(ROWS, 0), weight=np.full(ROWS, factor, np.float32))
        if ranks.rank:
            run.train_nothing()
        else:
            run.train(batch)
        counts.append(run.progress.refused_in_a_row)
    run.close()
    return counts


def test_a_good_step_ends_the_refusals_in_a_row_of_a_rank_without_clicks(pool: RankPool, tmp_path: Path) -> None:
    assert pool.run(2, diverge_twice_and_recover, tmp_path) == [[1, 2, 0, 1, 2]] * 2


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
    assert second.startswith("rank 1 of 2: another rank has ended")
    assert len(list((tmp_path / "rank-0-of-1").glob("0*[0-9]"))) == 1
    running.close()
    pool.run(2, begin_anew, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank-0-of-2", "rank-1-of-2"]


def begin_anew(ranks: Ranks, directory: Path) -> None:
    RankedRun(config_of(directory), SHARDS, ranks, COLUMNS, resume=False).close()


def refused_to_begin(ranks: Ranks, directory: Path) -> str:
    """The error of beginning anew; rank 1's is the end of rank 0."""
    try:
        begin_anew(ranks, directory)
    except (CheckpointError, RankError) as error:
        ranks.leave()  # as the end of the process does
        return str(error)
    return "no error"


def test_a_run_without_torchrun_is_refused(tmp_path: Path) -> None:
    run = TrainingRun(config_of(tmp_path), SHARDS)
    run.train(click_batch(ROWS, 0))
    run.checkpoint()
    run.close()
    with pytest.raises(CheckpointError, match="without torchrun"):
        RankedRun(config_of(tmp_path), SHARDS, Ranks(), COLUMNS)


def test_the_checkpoint_of_a_rank_is_no_run_without_torchrun(tmp_path: Path) -> None:
    ranked = RankedRun(config_of(tmp_path), SHARDS, Ranks(), COLUMNS)
    ranked.close()
    with pytest.raises(CheckpointError, match="torchrun --nproc-per-node 1"):
        TrainingRun(config_of(tmp_path), SHARDS)


def test_a_rank_whose_checkpoints_are_gone_stops_the_others(tmp_path: Path) -> None:
    train(Ranks(), tmp_path, 9)
    for path in (tmp_path / "rank-0-of-1").glob("0*[0-9]"):
        (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="start with --fresh"):
        RankedRun(config_of(tmp_path), SHARDS, Ranks(), COLUMNS)


def test_an_assignment_with_a_row_of_another_shard_is_refused(tmp_path: Path) -> None:
    run = RankedRun(config_of(tmp_path), SHARDS, Ranks(), COLUMNS)
    good, bad = changes_of(1, 1), changes_of(1, 2)
    first, count = rows_of_shard(CAPACITY, SHARDS, 1)
    bad = replace(bad, records=[replace(bad.records[0], row=first + count)])
    assert [outcome.refused for outcome in run.apply([good])] == [{}]
    (outcome,) = run.apply([bad])
    assert f"expected rows {first} to {first + count - 1}" in outcome.refused[0]
    assert run.history.num_hot == run.trainer.embedding.num_hot == 1
    run.close()
