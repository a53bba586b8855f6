"""The documentation's example runs as it stands; an export predicts as its run does; memory stays flat."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from test_process_checkpoint import disk_with_room_for, drive, run_config
from trainer_batches import NUM_FIELDS, click_batch

from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.plans import plan_for_capacity
from trainer.embedding.stores.registry import ROW_FORMATS
from trainer.errors import CheckpointError, DivergedError
from trainer.learning.trainer import ADAPTIVE
from trainer.process.run import TrainingRun
from trainer.serving.export import export, load_export

DOCUMENT = Path(__file__).parent.parent / "docs" / "trainer.md"


def test_the_example_runs() -> None:
    code = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[0]
    rng = np.random.default_rng(0)
    fields = np.arange(1, 27, dtype=np.uint64) << np.uint64(56)
    batches = [
        (fields | (rng.zipf(1.2, (64, 26)) % 1000).astype(np.uint64), torch.from_numpy(rng.random(64) < 0.3).float())
        for _ in range(20)
    ]
    names: dict[str, object] = {"batches": batches}
    exec(compile(code, str(DOCUMENT), "exec"), names)  # noqa: S102  our own document
    embedding = names["embedding"]
    assert isinstance(embedding, AdaptiveEmbedding)
    assert embedding.num_hot > 0
    assert embedding.nbytes["total"] <= 2_000_000


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_an_export_predicts_what_its_run_predicts(tmp_path: Path, row_format: str) -> None:
    run = drive(TrainingRun(run_config(None, row_format=row_format), 1), 12)
    export(run, tmp_path / "out")
    export(run, tmp_path / "out")  # replaces the first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    model, embedding, about = load_export(tmp_path / "out")
    assert run.trainer is not None
    batch, learner = click_batch(64, 99), run.trainer.learners[ADAPTIVE]
    with torch.no_grad():
        expected = learner.model(torch.from_numpy(batch.dense), learner.embedding(batch.keys))
        assert torch.equal(model(torch.from_numpy(batch.dense), embedding(batch.keys)), expected)
    assert about["applied_seq"] == run.history.standings()
    assert about["offsets"]["clicks"] == {"0": 12}


@pytest.mark.parametrize("name", ["dense.safetensors", "rows.safetensors", "router.safetensors", "export.json"])
def test_every_byte_of_an_export_is_guarded(tmp_path: Path, name: str) -> None:
    export(drive(TrainingRun(run_config(None), 1), 12), tmp_path)
    good = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(0)
    damaged = [good[: len(good) // 2], b"", good + b" ", good.replace(b"0", b"1", 1)]
    for position in rng.integers(0, len(good), 20):
        bad = bytearray(good)
        bad[position] ^= 1 << rng.integers(8)
        damaged.append(bytes(bad))
    for bad in damaged:
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"damaged; export again"):
            load_export(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}.*expected an export"):
        load_export(tmp_path)


def test_an_export_of_an_older_version_is_named(tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text('{"version": 5}')
    with pytest.raises(CheckpointError, match="got version 5, expected 6; export again"):
        load_export(tmp_path)


def test_an_export_that_cannot_be_written_keeps_the_one_before_it(tmp_path: Path) -> None:
    run = TrainingRun(run_config(None), 1)
    run.train(click_batch(32, 0))
    export(run, tmp_path / "out")
    with disk_with_room_for(1000), pytest.raises(CheckpointError, match=r"--export .*out: cannot be written \("):
        export(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    load_export(tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"cannot be written \(.*can be written"):
        export(run, tmp_path / "out" / "export.json" / "inner")


def test_a_run_without_hot_features_can_be_exported(tmp_path: Path) -> None:
    run = TrainingRun(run_config(None), 1)
    run.train(click_batch(32, 0))
    export(run, tmp_path / "out")
    assert load_export(tmp_path / "out")[1].num_hot == 0


def test_a_model_with_numbers_that_are_not_finite_is_not_exported(tmp_path: Path) -> None:
    run = TrainingRun(run_config(None), 1)
    run.train(click_batch(32, 0))
    assert run.trainer is not None
    next(run.trainer.learners[ADAPTIVE].model.parameters()).data[0, 0] = float("inf")
    with pytest.raises(DivergedError, match=r"dense: bottom\.0\.weight has numbers that are not finite"):
        export(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_nothing_trained_and_a_folder_of_somebody_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to export"):
        export(TrainingRun(run_config(None), 1), tmp_path / "out")
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="no export"):
        export(drive(TrainingRun(run_config(None), 1), 1), tmp_path)


def test_ten_million_distinct_keys_leave_memory_flat() -> None:
    embedding = AdaptiveEmbedding(plan_for_capacity(100_000, 8, NUM_FIELDS, row_format="bfloat16"))
    assert 285_000 < embedding.plan.layout.num_rows < 286_000
    fields = np.arange(1, NUM_FIELDS + 1, dtype=np.uint64) << np.uint64(56)
    gradient = torch.ones(1, 1, 8)
    allocated, peaks = embedding.nbytes, []
    for step in range(250):
        payloads = np.arange(10_000, dtype=np.uint64)[:, None] + np.uint64(step * 10_000)
        vectors = embedding(fields | payloads)  # 40,000 keys that were never seen before
        vectors.backward(gradient.expand_as(vectors))
        assert len(embedding.apply_gradients().keys) == 40_000
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert embedding.nbytes == allocated
    assert peaks[-1] - peaks[20] < 16_384, "KiB"
