"""Checkpoints and journals of several ranks, without a broker: they resume alike, and with another number of ranks."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ranked_run_driver import CAPACITY, COLUMNS, PARTITIONS, ROWS, SHARDS, Driver, changes_of, config_of, train
from ranks_driver import RankPool, digest_of
from trainer_batches import click_batch

from streams.assignments.row_ranges import rows_of_shard
from streams.clients.config import KafkaConfig
from trainer.errors import CheckpointError, PlanError, RankError
from trainer.process.ranked_run import RankedRun
from trainer.process.ranked_session import compare_options
from trainer.process.run import TrainingRun
from trainer.process.session_config import SessionConfig
from trainer.ranks.group import Ranks

HANG_TIMEOUT_S = 5.0


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(4) as opened:
        yield opened


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


def refuse_some(ranks: Ranks, directory: Path) -> tuple[float, list[str]]:
    """Rank 1 refuses three click records; both train one."""
    run = RankedRun(config_of(directory), SHARDS, ranks, COLUMNS)
    run.train(click_batch(ROWS, ranks.rank))
    for _ in range(3 * ranks.rank):
        run.progress.refuse_clicks("no label")
    total = run.progress_in_all()
    run.close()
    return total.refused_share, total.describe_refused_clicks()


def test_refused_click_records_of_all_ranks_are_judged_together(pool: RankPool, tmp_path: Path) -> None:
    assert pool.run(2, refuse_some, tmp_path) == [(0.6, ["3 x no label"])] * 2


def compare(ranks: Ranks, directory: Path) -> str:
    """The error of two ranks with different options."""
    kafka, fields = KafkaConfig(bootstrap_servers="localhost:1"), COLUMNS[0]
    config = SessionConfig(kafka=kafka, run=config_of(directory), fields=fields, dense_names=("a", "b"))
    compare_options(config, ranks)
    with pytest.raises(PlanError) as caught:
        compare_options(replace(config, limit_rows=7 + ranks.rank), ranks)
    return str(caught.value)


def test_ranks_with_different_options_are_refused(pool: RankPool, tmp_path: Path) -> None:
    expected = "limit_rows: rank 1 has 8, rank 0 has 7; start all ranks with the same options"
    assert pool.run(2, compare, tmp_path) == [expected] * 2


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


def hang_while_training(ranks: Ranks, directory: Path) -> tuple[str, float]:
    """The error of each rank after rank 1 was stopped amid the training, and how long it took; rank 0 lets it go on."""
    pids = [pid for (pid,) in ranks.gather([os.getpid()])]
    driver = Driver(ranks, directory)
    driver.train(3)
    if ranks.rank:
        os.kill(os.getpid(), signal.SIGSTOP)
    started_s = time.monotonic()
    try:
        driver.train(6)
    except RankError as error:
        return str(error), time.monotonic() - started_s
    finally:
        driver.run.close()
        os.kill(pids[1], signal.SIGCONT)
        ranks.leave()
    return "no error", 0.0


def test_a_hung_rank_ends_the_others_in_time_and_is_named(pool: RankPool, tmp_path: Path) -> None:
    (first, took_s), (second, _) = pool.run(2, hang_while_training, tmp_path, timeout_s=HANG_TIMEOUT_S)
    assert first.startswith(
        f"rank 0 of 2: rank 1 did not answer within {HANG_TIMEOUT_S:g} s (--rank-timeout), so this one"
    )
    assert "\n" not in first
    assert HANG_TIMEOUT_S <= took_s < 30
    assert second.startswith("rank 1 of 2: ")
