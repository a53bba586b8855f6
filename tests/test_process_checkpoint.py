"""Checkpoints, the journal, and runs that are killed."""

from __future__ import annotations

import logging
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_batches import click_batch

from streams.assignments.columns import Fetch
from streams.records import Assignment, Digest
from trainer.errors import CheckpointError, DivergedError, TrainerError
from trainer.learning.learner import DenseOptimizer
from trainer.learning.model_config import ModelConfig
from trainer.learning.trainer import ADAPTIVE
from trainer.process.checkpoint import Checkpoints
from trainer.process.journal import Apply, Correct, Journal, Train
from trainer.process.run import RunConfig, TrainingRun

TENSORS = {"a": torch.arange(12.0).view(3, 4), "keys": torch.tensor([-1, 1 << 62])}


def assignment(key: int, tier: str, seq: int, *, row: int | None = None, epoch: int = 1, shard: int = 0) -> Assignment:
    return Assignment(key=key, tier=tier, row=row, shard=shard, epoch=epoch, seq=seq, score=1.0)  # type: ignore[arg-type]


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_was_and_the_last_few_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for event in (3, 7, 12):
        checkpoints.save(event, TENSORS, {"event": event})
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.state == {"event": 12}
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in TENSORS.items())
    assert [path.name for path in checkpoints.paths()] == ["000000000012", "000000000007"]
    checkpoints.save(12, TENSORS, {"event": 12, "again": True})
    loaded = Checkpoints(tmp_path).load()
    assert loaded is not None
    assert loaded.state["again"] is True


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "new").load() is None


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, TENSORS, {"event": 1})
    newest = checkpoints.save(2, TENSORS, {"event": 2}) / name
    data = bytearray(newest.read_bytes())
    if damage == "remove":
        newest.unlink()
    else:
        data[len(data) // 2] ^= 1
        newest.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    with caplog.at_level(logging.WARNING):
        loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.state == {"event": 1}
    assert "000000000002 is damaged" in caplog.text


def test_every_byte_of_a_checkpoint_is_guarded(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(5, TENSORS, {"event": 5})
    rng = np.random.default_rng(0)
    for file in sorted(path.iterdir()):
        good = file.read_bytes()
        for position in rng.integers(0, len(good), 20):
            bad = bytearray(good)
            bad[position] ^= 0x10
            file.write_bytes(bad)
            try:
                loaded = Checkpoints(tmp_path).load()
            except CheckpointError:
                continue
            assert loaded is not None  # a space in the manifest may become another character that JSON skips
            assert file.name == "manifest.json"
            assert loaded.state == {"event": 5}
        file.write_bytes(good)


def test_a_checkpoint_that_was_never_finished_is_deleted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, TENSORS, {"event": 1})
    (tmp_path / ".000000000002.part").mkdir()
    with caplog.at_level(logging.WARNING):
        loaded = checkpoints.load()
    assert loaded is not None
    assert "never finished" in caplog.text
    assert not (tmp_path / ".000000000002.part").exists()


def test_only_damaged_checkpoints_are_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    (checkpoints.save(1, TENSORS, {}) / "state.json").write_text("[]")
    with pytest.raises(CheckpointError, match="all 1 checkpoints are damaged; start with --fresh"):
        checkpoints.load()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_state_that_is_not_finite_is_not_written_and_the_last_good_one_stays(
    tmp_path: Path, number: float, dtype: torch.dtype
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for event in (1, 2):
        checkpoints.save(event, TENSORS, {"event": event})
    bad = {**TENSORS, "b": torch.tensor([1.0, number], dtype=dtype)}
    with pytest.raises(DivergedError, match="b of event 3 has numbers that are not finite"):
        checkpoints.save(3, bad, {"event": 3})
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["000000000001", "000000000002"]


# ---- journal --------------------------------------------------------------------------------------------------------


def test_the_journal_gives_the_events_behind_a_checkpoint_and_drops_a_torn_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    events = [Train(0, 0), Apply({0: 3, 1: 9}, {0: 5, 1: 9}), Train(1, 0), Train(0, 1)]
    for event in events:
        journal.record(event)
    journal.close()
    path = next(tmp_path.glob("*.journal"))
    path.write_bytes(path.read_bytes() + b'{"event":5,"cli')
    again = Journal(tmp_path, last_event=1)
    assert [again.next_scripted() for _ in range(4)] == [*events[1:], None]
    again.record(Train(1, 1))
    again.close()
    third = Journal(tmp_path, last_event=3)
    assert [third.next_scripted() for _ in range(3)] == [Train(0, 1), Train(1, 1), None]
    assert third.last_event == 5
    third.close()


def test_a_checkpoint_in_the_middle_of_a_repetition_keeps_the_rest_of_the_script(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for offset in range(6):
        journal.record(Train(0, offset))
    journal.close()
    repeating = Journal(tmp_path, last_event=0)
    for _ in range(3):
        repeating.next_scripted()
    repeating.start_file()
    repeating.forget(oldest_event=3)
    repeating.close()
    again = Journal(tmp_path, last_event=3)
    assert [again.next_scripted() for _ in range(4)] == [Train(0, 3), Train(0, 4), Train(0, 5), None]
    again.close()


@contextmanager
def disk_with_room_for(num_bytes: int) -> Iterator[None]:
    """No file grows beyond this size; the system refuses as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_damaged_line_of_the_journal_ends_the_repetition_and_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path)
    for offset in range(6):
        journal.record(Train(0, offset))
    journal.close()
    path = next(tmp_path.glob("*.journal"))
    path.write_bytes(path.read_bytes().replace(b'"click":[0,2]', b'"click":[0,1]'))
    again = Journal(tmp_path)
    assert [again.next_scripted() for _ in range(3)] == [Train(0, 0), Train(0, 1), None]
    assert "has 1 damaged lines; it repeats the events up to 2, and 3 later ones follow" in caplog.text
    again.record(Train(7, 7))
    again.close()
    third = Journal(tmp_path)
    assert [third.next_scripted() for _ in range(4)] == [Train(0, 0), Train(0, 1), Train(7, 7), None]
    third.close()


def test_every_byte_of_the_journal_is_guarded(tmp_path: Path) -> None:
    change = ((1 << 64) - 1, 7, 0.1)
    events = [Train(3, 4711), Apply({0: 3}, {0: 5}), Correct(1, {"seq": 9}, (change,)), Train(0, 0)]
    journal = Journal(tmp_path)
    for event in events:
        journal.record(event)
    journal.close()
    path = next(tmp_path.glob("*.journal"))
    good = path.read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1
        path.write_bytes(bad)
        again = Journal(tmp_path)
        repeated = list(iter(again.next_scripted, None))
        again.close()
        assert repeated == events[: len(repeated)], position


def test_journal_lines_that_a_full_disk_refuses_are_written_with_later_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path)
    with disk_with_room_for(100):
        for offset in range(5):
            journal.record(Train(0, offset))
        with pytest.raises(OSError, match="too large"):
            journal.start_file()
    journal.record(Train(0, 5))
    assert "the journal cannot be written" in caplog.text
    assert len(caplog.records) == 2, "one warning for each state"
    journal.close()
    again = Journal(tmp_path)
    assert [again.next_scripted() for _ in range(7)] == [*(Train(0, offset) for offset in range(6)), None]
    again.close()


def test_a_journal_that_can_never_be_written_ends_the_run_with_bounded_memory(tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    def record_on() -> None:
        for offset in range(1 << 15):
            journal.record(Train(0, offset))

    with disk_with_room_for(100), pytest.raises(CheckpointError, match=r"1 MiB of the journal.*free space"):
        record_on()
    journal.close()


# ---- a run ----------------------------------------------------------------------------------------------------------


def run_config(directory: Path | None, **model: object) -> RunConfig:
    options: dict[str, object] = {"capacity_rows": 60, "dim": 8, "compare_hash": True, **model}
    return RunConfig(
        model=ModelConfig(**options),  # type: ignore[arg-type]
        device=torch.device("cpu"),
        checkpoint_dir=directory,
        checkpoint_every=5 * 32,
        window_rows=200,
    )


def assignments_before(step: int) -> Fetch:
    """Six changes with a gap before them, a late one, and a digest that differs; read to the end of the topic."""
    keys = click_batch(32, step).keys.reshape(-1).tolist()
    seqs = [10 * step + i for i in (0, 1, 3, 4, 5, 2)]
    records = [assignment(key, "hot", seq, row=(3 * step + seq) % 60) for key, seq in zip(keys[:6], seqs, strict=True)]
    digest = Digest(shard=0, epoch=1, seq=10 * step + 5, hot=1, digest=7)
    offsets = range(10 * step, 10 * step + 7)
    return Fetch(partition=0, records=[*records, digest], offsets=offsets, end_offset=10 * step + 25)


def drive(run: TrainingRun, last_step: int, *, dies_at_event: int | None = None) -> TrainingRun:
    """Acts as a session; batch i and the assignments of step i both have offset i of partition 0."""

    def perform(event: Apply | Train) -> None:
        if isinstance(event, Apply):
            run.apply([assignments_before(event.ends[0] - 1)])
            run.offsets["assignments"] = {0: event.ends[0]}
        else:
            run.train(click_batch(32, event.offset))
            run.offsets["clicks"] = {0: event.offset + 1}
        if run.wants_checkpoint:
            run.checkpoint()

    while (event := run.journal.next_scripted()) is not None:
        perform(event)
    while (step := run.offsets["clicks"].get(0, 0)) < last_step:
        if run.trainer is not None and run.offsets["assignments"].get(0, 1) <= step:
            event = Apply({0: step + 1})
        else:
            event = Train(0, step)
        run.journal.record(event)
        if run.journal.last_event == dies_at_event:
            break
        perform(event)
    run.close()
    return run


@pytest.mark.parametrize("dies_at_events", [[2], [9, 10], [11, 23, 37]])
def test_a_killed_run_ends_in_the_same_weights_bit_for_bit(tmp_path: Path, dies_at_events: list[int]) -> None:
    undisturbed = drive(TrainingRun(run_config(None), 1), 23)
    for dies_at in dies_at_events:
        drive(TrainingRun(run_config(tmp_path), 1), 23, dies_at_event=dies_at)
    resumed = drive(TrainingRun(run_config(tmp_path), 1), 23)
    assert undisturbed.trainer is not None
    assert resumed.trainer is not None
    expected = undisturbed.trainer.tensors()
    for name, tensor in resumed.trainer.tensors().items():
        assert torch.equal(tensor, expected[name]), name
    assert resumed.progress.to_state() == undisturbed.progress.to_state()
    assert resumed.progress.rows == 23 * 32
    assert resumed.offsets == undisturbed.offsets
    assert resumed.history.to_state() == undisturbed.history.to_state()
    assert resumed.history.shards[0].gap is not None
    expected_arrays = undisturbed.history.to_arrays()
    for name, array in resumed.history.to_arrays().items():
        np.testing.assert_array_equal(np.sort(array), np.sort(expected_arrays[name]), name)


def test_another_configuration_is_refused_and_fresh_starts_over(tmp_path: Path) -> None:
    drive(TrainingRun(run_config(tmp_path), 1), 8)
    with pytest.raises(TrainerError, match=r"has dim 8, expected 16.*--fresh"):
        TrainingRun(run_config(tmp_path, dim=16), 1)
    assert TrainingRun(run_config(tmp_path, dim=16), 1, resume=False).progress.rows == 0
    assert not Checkpoints(tmp_path).paths()


def test_a_diverged_run_ends_names_the_batch_and_keeps_its_last_good_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rates = DenseOptimizer(name="sgd", learning_rate=1e6)
    run = TrainingRun(run_config(tmp_path, dense_optimizer=rates, compare_hash=False), 1)
    run.train(click_batch(32, 0))
    run.checkpoint()
    kept = Checkpoints(tmp_path).paths()

    def train_on() -> None:
        for offset in range(50):
            run.train(click_batch(32, 1 + offset), name=f"clicks[1], offset {offset}")

    with pytest.raises(DivergedError, match=r"3 steps in a row were refused.*clicks\[1\], offset \d+.*--fresh"):
        train_on()
    assert run.progress.refused_steps == 3
    assert run.progress.refused_rows == 3 * 32
    assert run.progress.windows.rows == run.progress.rows
    refusals = [record.message for record in caplog.records if "nothing was learned" in record.message]
    assert len(refusals) == 3
    assert "clicks[1], offset" in refusals[0]
    assert run.trainer is not None
    for name, tensor in run.trainer.tensors().items():
        assert name.startswith("adaptive.model") or torch.isfinite(tensor.float()).all(), name
    assert Checkpoints(tmp_path).paths() == kept
    run.close()


def test_a_single_refused_step_is_skipped_and_the_count_begins_anew() -> None:
    run = TrainingRun(run_config(None), 1)
    run.train(click_batch(32, 0))
    assert run.trainer is not None
    bias = [weight for weight in run.trainer.learners[ADAPTIVE].model.parameters() if weight.ndim == 1][-1]
    for step in range(6):
        good = bias.data.clone()
        bias.data.fill_(float("nan"))
        assert run.train(click_batch(32, 2 * step)) is None
        bias.data.copy_(good)
        assert run.train(click_batch(32, 2 * step + 1)) is not None
    assert (run.progress.refused_steps, run.progress.refused_in_a_row, run.progress.rows) == (6, 0, 7 * 32)
    assert np.isfinite(list(run.progress.windows.log_loss().values())).all()


def test_after_a_failed_checkpoint_there_is_a_warning_and_the_next_one_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = TrainingRun(run_config(tmp_path), 1)
    run.train(click_batch(32, 0))
    with disk_with_room_for(1000), pytest.raises(CheckpointError, match="checkpoint at the end was not written"):
        run.checkpoint()
    assert "no checkpoint was written" in caplog.text
    assert not list(tmp_path.glob(".*.part")), "a part of a checkpoint would fill the disk"
    for step in range(1, 7):
        run.train(click_batch(32, step))
    assert run.wants_checkpoint
    run.checkpoint()
    assert len(Checkpoints(tmp_path).paths()) == 1
    assert run.progress.failed_checkpoints == 1
    run.close()


def test_a_checkpoint_directory_that_vanishes_is_a_warning_and_then_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "run"
    run = TrainingRun(run_config(directory), 1)
    run.train(click_batch(32, 0))
    shutil.rmtree(directory)
    assert run.capture() is None
    assert "No such file or directory" in caplog.text
    with pytest.raises(CheckpointError, match="not written"):
        run.checkpoint()
    run.close()


def test_a_checkpoint_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match=r"--checkpoint-dir .*file/run: cannot be used .*can be written"):
        TrainingRun(run_config(tmp_path / "file" / "run"), 1)


@pytest.mark.parametrize("resume", [True, False])
def test_a_second_trainer_on_one_directory_is_refused_and_changes_nothing(tmp_path: Path, resume: bool) -> None:
    first = TrainingRun(run_config(tmp_path), 1)
    first.train(click_batch(32, 0))
    first.checkpoint()
    unfinished = tmp_path / ".000000000009.part"
    unfinished.mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=rf"in use by process {os.getpid()}; .*another directory"):
        TrainingRun(run_config(tmp_path), 1, resume=resume)
    assert sorted(tmp_path.rglob("*")) == before
    first.close()
    TrainingRun(run_config(tmp_path), 1).close()


def test_a_start_that_fails_leaves_the_directory_to_the_next(tmp_path: Path) -> None:
    drive(TrainingRun(run_config(tmp_path), 1), 8)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="has dim 8"):
            TrainingRun(run_config(tmp_path, dim=16), 1)
