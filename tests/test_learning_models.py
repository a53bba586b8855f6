"""Models, prequential metrics, and training on a small stream."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from trainer_batches import NUM_FIELDS, click_batch

from sketch import HotSet, HotSketch
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.plans import hash_plan, plan_for_capacity
from trainer.embedding.stores.kernels import row_kernels
from trainer.embedding.stores.registry import ROW_FORMATS
from trainer.embedding.stores.two_level import PARTS
from trainer.embedding.stores.two_level_kernels import two_level_kernels
from trainer.errors import PlanError
from trainer.learning.building import build_trainer
from trainer.learning.learner import DenseOptimizer
from trainer.learning.model_config import CRITEO_FEATURES, ModelConfig
from trainer.learning.models import MODELS, build_model, transform_dense
from trainer.learning.quality import Quality, Windows
from trainer.learning.trainer import ADAPTIVE, HASH, Trainer
from trainer.process.warm_up import warm_up


def make_trainer(*, compare: bool = False, seed: int = 0) -> Trainer:
    embedding = AdaptiveEmbedding(plan_for_capacity(60, 8, NUM_FIELDS), seed=seed)

    def model() -> torch.nn.Module:
        return build_model("dlrm", num_dense=2, num_fields=NUM_FIELDS, dim=8, seed=seed)

    baseline = (model(), HashEmbedding(hash_plan(embedding.nbytes["total"], 8, NUM_FIELDS))) if compare else None
    return Trainer(model(), embedding, optimizer=DenseOptimizer(learning_rate=0.003), baseline=baseline)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("num_dense", "num_fields"), [(0, 5), (13, 5), (0, 1), (13, 1)])
def test_a_model_returns_one_logit_per_row_and_every_field_receives_a_gradient(
    name: str, num_dense: int, num_fields: int
) -> None:
    model = build_model(name, num_dense=num_dense, num_fields=num_fields, dim=8)
    vectors = torch.randn(7, num_fields, 8, requires_grad=True)
    dense = torch.full((7, num_dense), float("nan"))
    logits = model(dense, vectors)
    assert logits.shape == (7,)
    assert torch.isfinite(logits).all()
    logits.sum().backward()
    assert vectors.grad is not None
    assert (vectors.grad.norm(dim=2) > 0).all()
    rebuilt = build_model(name, num_dense=num_dense, num_fields=num_fields, dim=8)(dense, vectors)
    assert torch.equal(rebuilt, logits), "the initial weights depend only on the seed"


def test_dlrm_has_the_papers_sizes() -> None:
    model = build_model("dlrm", num_dense=13, num_fields=26, dim=16)
    shapes = [tuple(weight.shape) for name, weight in model.named_parameters() if name.endswith("weight")]
    assert shapes == [(512, 13), (256, 512), (64, 256), (16, 64), (512, 16 + 27 * 26 // 2), (256, 512), (1, 256)]


def test_missing_infinite_and_negative_dense_values_count_as_zero() -> None:
    dense = torch.tensor([[0.0, 1.0, -3.0, float("nan"), float("inf"), -float("inf")]])
    torch.testing.assert_close(transform_dense(dense), torch.tensor([[0.0, np.log(2.0), 0, 0, 0, 0]]).float())


def test_unknown_models_and_ambiguous_sizes_are_refused() -> None:
    with pytest.raises(PlanError, match="dlrm, wdl, dcn"):
        build_model("gpt", num_dense=1, num_fields=1, dim=1)
    with pytest.raises(PlanError, match="expected exactly one"):
        ModelConfig(embedding_bytes=1_000_000, capacity_rows=100)
    thousandth = ModelConfig(compression=1000).plan(26).nbytes["total"]
    assert 0.97 < thousandth / (CRITEO_FEATURES * 17 * 4 / 1000) <= 1


def exact_auc(logits: np.ndarray, labels: np.ndarray) -> float:
    differences = logits[labels == 1][:, None] - logits[labels == 0][None, :]
    return float((differences > 0).mean() + (differences == 0).mean() / 2)


@pytest.mark.parametrize("spread", [0.05, 1.0, 6.0])
def test_auc_and_log_loss_match_their_exact_formulas(spread: float) -> None:
    rng = np.random.default_rng(1)
    labels = (rng.random(6000) < 0.25).astype(np.int8)
    logits = (rng.normal(size=6000) * spread + labels * spread).astype(np.float32)
    logits[:500] = 0.0  # ties
    quality = Quality()
    for start in range(0, 6000, 1000):
        quality.add(logits[start : start + 1000], labels[start : start + 1000])
    assert quality.auc == pytest.approx(exact_auc(logits, labels), abs=1e-4 if spread > 0.1 else 2e-3)
    expected = binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(labels).float())
    assert quality.log_loss == pytest.approx(float(expected), rel=1e-5)
    restored = Quality.from_state(json.loads(json.dumps(quality.to_state())))
    assert (restored.auc, restored.log_loss, restored.rows) == (quality.auc, quality.log_loss, 6000)


def test_metrics_are_none_without_rows_and_finite_for_infinite_logits() -> None:
    quality = Quality()
    assert (quality.auc, quality.log_loss) == (None, None)
    quality.add(np.array([-np.inf, np.inf, -np.inf], np.float32), np.array([0, 1, 0], np.int8))
    assert quality.auc == 1.0
    assert quality.log_loss == 0.0


def test_a_prediction_that_is_not_a_number_leaves_no_auc_and_no_log_loss() -> None:
    quality, labels = Quality(), np.array([0, 1], np.int8)
    quality.add(np.array([0.5, 1.0], np.float32), labels)
    quality.add(np.array([np.nan, 1.0], np.float32), labels)
    restored = Quality.from_state(json.loads(json.dumps(quality.to_state())))
    for one in (quality, restored):
        one.add(np.array([0.5, 1.0], np.float32), labels)
        assert (one.rows, one.auc, one.log_loss) == (6, None, None)


def test_a_window_ends_with_the_batch_that_fills_it() -> None:
    windows = Windows(["a"], 5)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        windows.add({"a": rng.normal(size=3).astype(np.float32)}, np.array([0, 1, 0], np.int8))
    assert [window["rows"] for window in windows.finished] == [6, 12]
    restored = Windows.from_state(json.loads(json.dumps(windows.to_state())))
    for copy in (windows, restored):
        copy.add({"a": np.ones(6, np.float32)}, np.array([0, 1, 0, 1, 0, 1], np.int8))
    assert restored.finished == windows.finished


def test_training_lowers_the_loss_and_follows_a_hot_set() -> None:
    trainer = make_trainer(compare=True)
    hot_set = HotSet(60, HotSketch(64))
    windows = Windows([ADAPTIVE, HASH], 40 * 128)
    for step in range(160):
        batch = click_batch(128, step)
        report = trainer.step(batch)
        windows.add(report.logits, batch.label)
        trainer.migrate(hot_set.update(report.importance.keys, report.importance.scores))
        assert trainer.embedding.num_hot <= 60
    losses = [float(window[f"log_loss_{name}"]) for name in (ADAPTIVE, HASH) for window in windows.finished]
    assert losses[3] < losses[0] - 0.02
    assert losses[7] < losses[4] - 0.02
    assert trainer.embedding.num_hot > 40


def test_a_step_predicts_before_it_trains() -> None:
    trainer, batch = make_trainer(), click_batch(64, 0)
    with torch.no_grad():
        learner = trainer.learners[ADAPTIVE]
        before = learner.model(torch.from_numpy(batch.dense), learner.embedding(batch.keys)).numpy()
    np.testing.assert_array_equal(trainer.step(batch).logits[ADAPTIVE], before)


def test_a_row_counts_as_much_as_its_weight() -> None:
    batch = click_batch(64, 0)
    unweighted, ones, half = make_trainer(), make_trainer(), make_trainer()
    expected = unweighted.step(batch)
    report = ones.step(replace(batch, weight=np.ones(64, np.float32)))
    assert report.loss == expected.loss
    np.testing.assert_array_equal(report.importance.scores, expected.importance.scores)
    first = np.repeat(np.array([1, 0], np.float32), 32)
    report = half.step(replace(batch, weight=first))
    losses = np.logaddexp(0, -np.where(batch.label, 1, -1) * expected.logits[ADAPTIVE])
    assert report.loss[ADAPTIVE] == pytest.approx(float((losses * first).mean()), rel=1e-5)
    trained = set(report.importance.keys[report.importance.scores > 0].tolist())
    assert trained == set(batch.keys[:32].ravel().tolist())  # the other rows teach nothing


def test_rows_without_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="the rows have no labels"):
        make_trainer().step(replace(click_batch(8, 0), label=None))


def test_the_embedding_works_with_any_model_and_any_optimizer() -> None:
    embedding = AdaptiveEmbedding(plan_for_capacity(100, 8, NUM_FIELDS))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(NUM_FIELDS * 8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = click_batch(64, 1)
    loss = binary_cross_entropy_with_logits(model(embedding(batch.keys))[:, 0], torch.from_numpy(batch.label).float())
    loss.backward()
    optimizer.step()
    importance = embedding.apply_gradients()
    assert (importance.scores > 0).all()


def poison(trainer: Trainer, name: str, where: str) -> None:
    """Makes the loss, or only a gradient, of a learner not finite from the next step on."""
    last = [weight for weight in trainer.learners[name].model.parameters() if weight.ndim == 2][-1]
    if where == "loss":
        last.data[0, 0] = float("nan")
    else:
        last.register_hook(lambda gradient: gradient.index_fill(1, torch.tensor([0]), float("inf")))


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("name", [ADAPTIVE, HASH])
def test_a_step_that_is_not_finite_changes_nothing_in_any_learner(name: str, where: str) -> None:
    trainer = make_trainer(compare=True)
    assert trainer.step(click_batch(64, 0)).diverged == ()
    poison(trainer, name, where)
    before = {part: tensor.clone() for part, tensor in trainer.tensors().items()}
    report = trainer.step(click_batch(64, 1))
    assert (report.diverged, report.importance) == ((name,), None)
    assert not trainer.embedding.has_captured
    for part, tensor in trainer.tensors().items():
        assert torch.equal(tensor.nan_to_num(), before[part].nan_to_num()), part


def test_a_gradient_at_the_vectors_that_is_not_finite_is_refused() -> None:
    trainer = make_trainer()

    def disturb(_model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        vectors = inputs[1] * 1
        vectors.register_hook(torch.log)  # NaN for the negative ones
        return inputs[0], vectors

    trainer.learners[ADAPTIVE].model.register_forward_pre_hook(disturb)
    before = {part: tensor.clone() for part, tensor in trainer.tensors().items()}
    assert trainer.step(click_batch(64, 1)).diverged == (ADAPTIVE,)
    assert all(torch.equal(tensor, before[part]) for part, tensor in trainer.tensors().items())


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_warming_up_compiles_every_kernel_of_a_step_and_keeps_the_random_state(row_format: str) -> None:
    torch.manual_seed(5)
    before, dim = torch.get_rng_state(), 7
    batch = click_batch(16, 0)
    config = ModelConfig(compression=1000, dim=dim, row_format=row_format, compare_hash=True)
    warm_up(config, batch.fields, batch.dense_names, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    kernels = [*row_kernels(dim), *two_level_kernels(dim, PARTS)]
    compiled = [len(kernel.signatures) for kernel in kernels]
    assert min(compiled) >= 1
    build_trainer(config, batch.fields, len(batch.dense_names), torch.device("cpu")).step(batch)
    assert [len(kernel.signatures) for kernel in kernels] == compiled
