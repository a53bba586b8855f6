"""Several values in a field: the trainer sums their vectors, and each value learns and has its importance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_learning_queued import FAST, make_trainer, no_synchronisation
from torch.nn.functional import binary_cross_entropy_with_logits
from trainer_batches import NUM_FIELDS, click_batch

from sketch.changes import Changes
from streams.keys import FIELD_SHIFT
from streams.records import ClickBatch, MoreValues
from trainer.embedding.backends import Backend
from trainer.embedding.value_bags import Bags
from trainer.learning.trainer import ADAPTIVE, HASH, Trainer
from trainer.process.click_columns import fit_columns
from trainer.process.click_steps import merge_clicks

EVERYWHERE = [("cpu", "numba"), *FAST]
ROWS = 24


def with_more(batch: ClickBatch, seed: int) -> ClickBatch:
    """The rows with 0 to 3 further values each, in fields 2 to 4, with payloads that no first value has."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 4, batch.num_rows))])
    fields = rng.integers(2, NUM_FIELDS + 1, offsets[-1]).astype(np.uint64)
    keys = fields << FIELD_SHIFT | rng.integers(1000, 1010, offsets[-1]).astype(np.uint64)
    return replace(batch, more=MoreValues(offsets=offsets, keys=keys))


def with_weights(batch: ClickBatch, seed: int) -> ClickBatch:
    """The rows with weights from -1 to 2 of all values."""
    rng = np.random.default_rng(seed)
    assert batch.more is not None
    weights = rng.uniform(-1, 2, len(batch.more.keys)).astype(np.float32)
    first = rng.uniform(-1, 2, batch.keys.shape).astype(np.float32)
    return replace(batch, more=replace(batch.more, weights=weights), key_weights=first)


def weights_of(batch: ClickBatch) -> list[float]:
    """The weights in the order of `values_of`; 1 without weights."""
    assert batch.more is not None
    if batch.key_weights is None or batch.more.weights is None:
        return [1.0] * (batch.keys.size + len(batch.more.keys))
    return [*batch.key_weights.reshape(-1).tolist(), *batch.more.weights.tolist()]


def values_of(batch: ClickBatch) -> list[tuple[int, int, int]]:
    """(row, column, key) of every value, by plain loops."""
    found = [(row, column, int(batch.keys[row, column])) for row, column in np.ndindex(*batch.keys.shape)]
    assert batch.more is not None
    for row in range(batch.num_rows):
        keys = batch.more.keys[batch.more.offsets[row] : batch.more.offsets[row + 1]].tolist()
        found += [(row, (key >> 56) - 1, key) for key in keys]
    return found


def expected_of(trainer: Trainer, batch: ClickBatch) -> tuple[torch.Tensor, dict[int, float]]:
    """The logits, and the importance of each key: the norm of the gradient of the sum of the losses at its vector."""
    learner, device = trainer.learners[ADAPTIVE], trainer.embedding.device
    values = values_of(batch)
    with torch.no_grad():
        each = trainer.embedding.vectors_of(np.array([key for *_, key in values], np.uint64))
    each.requires_grad_()
    vectors = torch.zeros(batch.num_rows, NUM_FIELDS, each.shape[1], device=device)
    for (row, column, _), vector, weight in zip(values, each, weights_of(batch), strict=True):
        vectors = vectors.index_put(
            (torch.tensor(row, device=device), torch.tensor(column, device=device)), weight * vector, accumulate=True
        )
    logits = learner.model(torch.from_numpy(batch.dense).to(device), vectors)
    label = torch.from_numpy(batch.require_labels()).float().to(device)
    loss = binary_cross_entropy_with_logits(logits, label, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, each)
    scores: dict[int, float] = {}
    for (*_, key), norm in zip(values, gradient.norm(dim=1).tolist(), strict=True):
        scores[key] = scores.get(key, 0.0) + norm
    return logits.detach().cpu(), scores


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize(("device", "backend"), EVERYWHERE)
def test_a_field_is_the_sum_of_its_values_and_each_value_has_its_importance(
    device: str, backend: Backend, is_weighted: bool
) -> None:
    trainer = make_trainer(device, backend)
    for step in range(3):
        batch = with_more(click_batch(ROWS, step), step)
        if is_weighted:
            batch = with_weights(batch, step)
        logits, scores = expected_of(trainer, batch)
        report = trainer.step(batch)
        np.testing.assert_allclose(report.logits[ADAPTIVE], logits, rtol=1e-4, atol=1e-5)
        assert report.importance is not None
        found = dict(zip(report.importance.keys.tolist(), report.importance.scores.tolist(), strict=True))
        assert found == pytest.approx(scores, rel=1e-3, abs=1e-5)
        assert any(key & 0xFFFFFF >= 1000 for key in found), "keys that are second values only"
        trainer.migrate(changes_of(sorted(scores)[-10:]))


def changes_of(keys: list[int]) -> Changes:
    """Makes the keys hot in rows 0, 1 and so on."""
    return Changes(np.array(keys, np.uint64), np.arange(len(keys), dtype=np.int32), np.ones(len(keys), np.float32))


@pytest.mark.parametrize(("device", "backend"), EVERYWHERE)
def test_the_records_of_a_step_have_the_importance_of_their_further_values(device: str, backend: Backend) -> None:
    parts = [with_weights(with_more(click_batch(16, 1), 1), 1), click_batch(4, 2), with_more(click_batch(8, 3), 3)]
    batch, trainer = merge_clicks(parts), make_trainer(device, backend)
    _, expected = expected_of(trainer, batch)
    report = trainer.step(batch, record_rows=[16, 4, 8])
    totals: dict[int, float] = {}
    for importance, part in zip(report.importances, parts, strict=True):
        np.testing.assert_array_equal(np.sort(importance.keys), np.unique(part.every_key))
        for key, score in zip(importance.keys.tolist(), importance.scores.tolist(), strict=True):
            totals[key] = totals.get(key, 0.0) + score
    assert totals == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_a_sum_of_one_value_trains_bit_for_bit_as_without_bags(backend: Backend) -> None:
    plain, summed = make_trainer("cpu", backend), make_trainer("cpu", backend)
    for step in range(4):
        batch = click_batch(ROWS, step)
        nothing = MoreValues(offsets=np.zeros(ROWS + 1, np.int64), keys=np.empty(0, np.uint64))
        reports = [trainer.step(one) for trainer, one in ((plain, batch), (summed, replace(batch, more=nothing)))]
        np.testing.assert_array_equal(reports[0].logits[HASH], reports[1].logits[HASH])
    for name, tensor in plain.tensors().items():
        assert torch.equal(tensor, summed.tensors()[name]), name


def test_weights_of_1_train_as_no_weights() -> None:
    plain, weighted = make_trainer("cpu", "numba"), make_trainer("cpu", "numba")
    for step in range(3):
        batch = click_batch(ROWS, step)
        ones = replace(batch, key_weights=np.ones(batch.keys.shape, np.float32))
        reports = [trainer.step(one) for trainer, one in ((plain, batch), (weighted, ones))]
        np.testing.assert_array_equal(reports[0].logits[ADAPTIVE], reports[1].logits[ADAPTIVE])
    for name, tensor in plain.tensors().items():
        assert torch.equal(tensor, weighted.tensors()[name]), name


def test_a_value_that_is_never_a_first_one_learns_and_keeps_its_vector_when_it_is_promoted() -> None:
    trainer, batch = make_trainer("cpu", "numba"), with_more(click_batch(ROWS, 7), 7)
    assert batch.more is not None
    second = np.unique(batch.more.keys)
    before = trainer.embedding.vectors_of(second).detach()
    trainer.step(batch)
    after = trainer.embedding.vectors_of(second).detach()
    assert (before != after).any(dim=1).all()
    trainer.migrate(changes_of(second.tolist()))
    assert trainer.embedding.num_hot == len(second)
    torch.testing.assert_close(trainer.embedding.vectors_of(second).detach(), after)


def test_the_bags_are_in_the_order_of_rows_and_fields() -> None:
    batch = with_more(click_batch(ROWS, 5), 5)
    assert batch.more is not None
    bags = Bags.of(batch.keys, batch.more, torch.device("cpu"))
    found = sorted(zip(bags.bags.tolist(), bags.keys.tolist(), strict=True))
    assert found == sorted((row * NUM_FIELDS + column, key) for row, column, key in values_of(batch))
    assert bags.bags.tolist() == sorted(bags.bags.tolist())
    assert bags.keys[bags.starts].tolist() == batch.keys.reshape(-1).tolist()
    assert sum(bags.lookups_of([10, 14])) == len(bags.keys)


def test_a_model_of_fewer_fields_takes_the_further_values_of_its_own() -> None:
    batch = with_more(click_batch(ROWS, 0), 0)
    shorter = fit_columns(batch, (batch.fields[:2], 2))
    assert isinstance(shorter, ClickBatch)
    assert shorter.more is not None
    assert batch.more is not None
    assert set((shorter.more.keys >> FIELD_SHIFT).tolist()) == {2}
    assert len(shorter.more.keys) == ((batch.more.keys >> FIELD_SHIFT) == 2).sum()
    weighted = with_weights(batch, 0)
    cut = fit_columns(weighted, (batch.fields[:2], 2))
    assert isinstance(cut, ClickBatch)
    assert cut.key_weights is not None
    assert weighted.key_weights is not None
    np.testing.assert_array_equal(cut.key_weights, weighted.key_weights[:, :2])
    assert cut.more is not None
    assert cut.more.weights is not None
    assert len(cut.more.weights) == len(cut.more.keys)


@pytest.mark.parametrize(("device", "backend"), FAST)
def test_a_step_with_further_values_does_not_wait_for_the_device(device: str, backend: Backend) -> None:
    trainer = make_trainer(device, backend)
    for step in range(2):  # compiles, and allocates
        trainer.step(with_more(click_batch(64, step), step), record_rows=[30, 34])
    batch = with_more(click_batch(64, 2), 2)
    with no_synchronisation(device):
        started = trainer.start(batch, record_rows=[30, 34])
    assert started.finish().importance is not None
