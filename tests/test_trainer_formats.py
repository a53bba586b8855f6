"""Rows in float32, bfloat16 and int8: both bodies equal, rounding right on average, promotions keep vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_embedding import (
    BACKENDS,
    CAPACITY,
    DIM,
    FIELDS,
    changes_of,
    keys_of,
    learn,
    random_keys,
    vectors_of,
    weights_for,
)
from torch import Tensor

from sketch.changes import HOT
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.layout import Layout
from trainer.embedding.plans import ROW_FORMATS, EmbeddingPlan, RowFormatName, hash_plan, plan
from trainer.embedding.router import Backend
from trainer.embedding.stores.formats import FORMATS, Chance, Rows
from trainer.embedding.stores.row_table import RowOptimizer
from trainer.errors import CheckpointError, PlanError

SMALL: list[RowFormatName] = ["bfloat16", "int8"]
NUM_ROWS = 40


def make(row_format: RowFormatName, backend: Backend = "numba", level_2: int = 12) -> AdaptiveEmbedding:
    layout = Layout(num_fields=FIELDS, capacity_rows=CAPACITY, level_1_per_field=6, level_2_rows=level_2)
    sizes = EmbeddingPlan(layout=layout, dim=DIM, router_keys=32, row_format=row_format)
    return AdaptiveEmbedding(sizes, optimizer=RowOptimizer(rate=0.1), seed=3, backend=backend)


def random_rows(row_format: RowFormatName, dim: int = 16, seed: int = 0) -> tuple[Rows, Tensor]:
    numbers = torch.randn(NUM_ROWS, dim, generator=torch.Generator().manual_seed(seed))
    return FORMATS[row_format].make(numbers.clone()), numbers


def quanta(row_format: RowFormatName, table: Rows, numbers: Tensor) -> Tensor:
    """The distance between neighbouring numbers of the format, (R, 1) or (R, D)."""
    if row_format == "int8":
        return table.scales.float()[:, None]
    return torch.ldexp(torch.ones_like(numbers), torch.frexp(numbers).exponent - 8)


@pytest.mark.parametrize("row_format", SMALL)
def test_numbers_are_kept_to_the_nearest(row_format: RowFormatName) -> None:
    table, numbers = random_rows(row_format)
    read = FORMATS[row_format].read(table, torch.arange(NUM_ROWS))
    assert ((read - numbers).abs() <= quanta(row_format, table, numbers) * 0.5001).all()


@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
@pytest.mark.parametrize("row_format", ROW_FORMATS)
@pytest.mark.parametrize("dim", [3, 16, 29])
def test_numba_and_torch_train_the_same_rows(row_format: RowFormatName, optimizer: str, dim: int) -> None:
    kind, rows = FORMATS[row_format], torch.arange(0, NUM_ROWS, 2)
    (mine, numbers), (other, _) = random_rows(row_format, dim), random_rows(row_format, dim)
    state = torch.zeros(NUM_ROWS if optimizer == "adagrad" else 0)
    other_state = state.clone()
    for turn in range(6):
        merged = torch.randn(len(rows), dim, generator=torch.Generator().manual_seed(turn)) * 3.0 ** (turn - 3)
        chance = Chance(7, turn)
        kind.descend(mine, state, rows.int(), merged, (0.1, 1e-8), chance)
        rate: Tensor | float = 0.1
        if optimizer == "adagrad":
            other_state[rows] += merged.square().mean(dim=1)
            rate = (0.1 / (other_state[rows].sqrt() + 1e-8))[:, None]
        kind.write(other, rows, kind.read(other, rows) - rate * merged, rows, chance)
    everything = torch.arange(NUM_ROWS)
    distance = (kind.read(mine, everything) - kind.read(other, everything)).abs()
    assert (distance <= 1.01 * quanta(row_format, mine, numbers.abs() + 2)).all()
    assert (distance > 1e-5).float().mean() < 0.02, "the random bits are the same"
    torch.testing.assert_close(
        kind.read(mine, everything[1::2]), kind.read(random_rows(row_format, dim)[0], everything[1::2])
    )
    if row_format == "int8":
        peaks = mine.values.abs().amax(dim=1)
        assert ((peaks >= 62) & (peaks <= 127)).all(), "every row uses at least half of its range"


@pytest.mark.parametrize("row_format", SMALL)
def test_rounding_is_right_on_average_and_small_steps_are_not_lost(row_format: RowFormatName) -> None:
    kind, rows = FORMATS[row_format], torch.arange(NUM_ROWS)
    table, _ = random_rows(row_format)
    before = kind.read(table, rows)
    quantum = quanta(row_format, table, before)
    step = (quantum * 0.01).expand_as(before).contiguous()
    for turn in range(400):
        kind.descend(table, torch.empty(0), rows.int(), step, (1.0, 1e-8), Chance(1, turn))
    moved = (before - kind.read(table, rows)) / quantum
    assert abs(moved.mean() - 4.0) < 0.2  # 400 steps of a hundredth; to the nearest, none would have moved anything
    again, _ = random_rows(row_format)
    kind.descend(again, torch.empty(0), rows.int(), torch.zeros_like(before), (1.0, 1e-8), Chance(1, 1))
    assert torch.equal(kind.read(again, rows), before), "no gradient, no change"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row_format", SMALL)
@pytest.mark.parametrize("level_2", [0, 12])
def test_promotion_keeps_the_vector_exactly_from_one_row_and_rounded_from_a_sum(
    row_format: RowFormatName, backend: Backend, level_2: int
) -> None:
    embedding = make(row_format, backend, level_2)
    keys = keys_of([[11, 12, 13], [21, 22, 23]])
    learn(embedding, keys, weights_for(keys))
    embedding.apply_gradients()
    before = vectors_of(embedding, keys)
    embedding.migrate(changes_of(*[(int(key), HOT, place) for place, key in enumerate(keys.reshape(-1))]))
    after = vectors_of(embedding, keys)
    unit = np.abs(before).max(axis=-1, keepdims=True) * (2.0**-8 if row_format == "bfloat16" else 0.5 / 62)
    assert (np.abs(after - before) <= (unit if level_2 else 0)).all()


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_steps_of_both_backends_agree_within_a_rounding(row_format: RowFormatName) -> None:
    one, other = make(row_format, "numba"), make(row_format, "torch")
    keys = random_keys(5)
    hot = changes_of(*[(int(key), HOT, row) for row, key in enumerate(np.unique(keys)[:CAPACITY])])
    for embedding in (one, other):
        embedding.migrate(hot)
        for step in range(3):
            learn(embedding, keys, weights_for(keys, step))
            importance = embedding.apply_gradients()
            assert np.isfinite(importance.scores).all()
    bound = {"float32": 1e-5, "bfloat16": 0.01, "int8": 0.02}[row_format]
    np.testing.assert_allclose(vectors_of(one, keys), vectors_of(other, keys), atol=bound)


@pytest.mark.parametrize("row_format", SMALL)
def test_learning_in_a_small_format_follows_float32(row_format: RowFormatName) -> None:
    embeddings = [HashEmbedding(hash_plan(20_000, DIM, FIELDS, row_format=name)) for name in ("float32", row_format)]
    target = torch.randn(64, FIELDS, DIM, generator=torch.Generator().manual_seed(1))
    keys = random_keys(3)
    losses = []
    for embedding in embeddings:
        for _ in range(150):
            loss = (embedding(keys) - target).square().sum(dim=(1, 2)).mean()
            loss.backward()
            embedding.apply_gradients()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0] * 1.1 + 0.01


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_bytes_are_what_the_format_takes(row_format: RowFormatName) -> None:
    sizes = plan(300_000, 16, 26, row_format=row_format)
    allocated = AdaptiveEmbedding(sizes).nbytes
    assert {name: allocated[name] for name in sizes.nbytes} == sizes.nbytes
    assert allocated["rows"] == sizes.layout.num_rows * {"float32": 64, "bfloat16": 32, "int8": 18}[row_format]
    assert 0.97 * 300_000 < allocated["total"] <= 300_000
    assert HashEmbedding(hash_plan(300_000, 16, 26, row_format=row_format)).nbytes["total"] <= 300_000


def test_a_checkpoint_of_another_format_and_a_format_that_is_none_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"values: got .*int8, expected .*bfloat16"):
        make("bfloat16").load_tensors(make("int8").tensors())
    with pytest.raises(PlanError, match="row format: got 'int4', expected one of float32, bfloat16, int8"):
        plan(300_000, 16, 26, row_format="int4")  # type: ignore[arg-type]


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_rounding_goes_on_from_a_checkpoint(row_format: RowFormatName) -> None:
    one, other = make(row_format), make(row_format)
    keys = random_keys(6)
    for _ in range(3):
        learn(one, keys, weights_for(keys))
        one.apply_gradients()
    other.load_tensors({name: tensor.clone() for name, tensor in one.tensors().items()})
    for embedding in (one, other):
        learn(embedding, keys, weights_for(keys, 1))
        embedding.apply_gradients()
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, other.tensors()[name]), name
