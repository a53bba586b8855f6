"""Other stores than the default, for all rows or for unique rows only: train, resume, serve, evaluate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_embedding_adaptive import (
    BACKENDS,
    CAPACITY,
    DIM,
    FIELDS,
    changes_of,
    learn,
    random_keys,
    vectors_of,
    weights_for,
)
from test_evaluate_methods import make_cell

from trainer.commands.train import command as train
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.backends import Backend
from trainer.embedding.layout import Layout
from trainer.embedding.plans import EmbeddingPlan, plan
from trainer.embedding.stores.registry import ROW_FORMATS, STORES, store_class
from trainer.embedding.stores.rows import RowOptimizer
from trainer.errors import CheckpointError, PlanError
from trainer.evaluate.cell import run_cell


def make(row_format: str, hot_store: str | None, backend: Backend = "numba") -> AdaptiveEmbedding:
    layout = Layout(num_fields=FIELDS, capacity_rows=CAPACITY, level_1_per_field=6, level_2_rows=12)
    sizes = EmbeddingPlan(layout=layout, dim=DIM, router_keys=32, row_format=row_format, hot_store=hot_store, gate=True)
    return AdaptiveEmbedding(sizes, optimizer=RowOptimizer(learning_rate=0.1), seed=3, backend=backend)


def train_steps(embedding: AdaptiveEmbedding, steps: range) -> None:
    """Trains on random keys and changes the hot set after each step."""
    for step in steps:
        keys = random_keys(step)
        learn(embedding, keys, weights_for(keys, step))
        embedding.apply_gradients()
        chosen = np.unique(keys)[step % 3 :: 3][:CAPACITY]
        embedding.migrate(changes_of(*[(int(key), row) for row, key in enumerate(chosen)]))


PAIRS = [(name, None) for name in ROW_FORMATS] + [("float32", name) for name in STORES] + [("int8", "float32")]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("row_format", "hot_store"), PAIRS)
def test_a_resumed_embedding_continues_bit_for_bit(row_format: str, hot_store: str | None, backend: Backend) -> None:
    one, other = (make(row_format, hot_store, backend) for _ in range(2))
    train_steps(one, range(4))
    other.load_tensors({name: tensor.clone() for name, tensor in one.tensors().items()})
    for embedding in (one, other):
        train_steps(embedding, range(4, 7))
    assert one.num_hot == other.num_hot == CAPACITY
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, other.tensors()[name]), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("row_format", "hot_store"), PAIRS)
def test_a_promotion_between_stores_keeps_what_the_hot_store_can_hold(
    row_format: str, hot_store: str | None, backend: Backend
) -> None:
    embedding = make(row_format, hot_store, backend)
    keys = random_keys(1)
    before = vectors_of(embedding, keys)
    promoted = np.unique(keys)[:CAPACITY]
    embedding.migrate(changes_of(*[(int(key), row) for row, key in enumerate(promoted)]))
    after, is_hot = vectors_of(embedding, keys), np.isin(keys, promoted)
    np.testing.assert_array_equal(after[~is_hot], before[~is_hot])
    bound = 1.1 * store_class(hot_store or row_format).precision * np.abs(before).max(axis=-1, keepdims=True) + 2e-6
    assert (np.abs(after - before) <= bound).all()


@pytest.mark.parametrize("hot_store", STORES)
def test_a_plan_counts_the_bytes_of_each_store(hot_store: str) -> None:
    sizes = plan(200_000, 16, 26, row_format="int8", hot_store=hot_store)
    allocated = AdaptiveEmbedding(sizes).nbytes
    assert {name: allocated[name] for name in sizes.nbytes} == sizes.nbytes
    assert 0.97 * 200_000 < allocated["total"] <= 200_000


def test_the_stores_of_tiers_can_differ_and_a_checkpoint_of_others_is_refused() -> None:
    embedding = make("float32", "bfloat16")
    assert [embedding.stores[name].values.dtype for name in embedding.stores] == [
        torch.bfloat16, torch.float32, torch.float32,
    ]  # fmt: skip
    with pytest.raises(CheckpointError, match=r"values: got .*float32, expected .*bfloat16"):
        embedding.load_tensors(make("float32", None).tensors())


def test_an_unknown_store_is_refused() -> None:
    with pytest.raises(PlanError, match="hot store: got 'int3', expected one of float32"):
        plan(300_000, 16, 26, hot_store="int3")


def test_train_takes_its_stores_from_the_registry() -> None:
    choices = {option.name: option.type for option in train.params}
    assert tuple(choices["row_format"].choices) == ROW_FORMATS  # type: ignore[attr-defined]
    assert tuple(choices["hot_store"].choices) == tuple(STORES)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "knobs", [{"row_format": name} for name in ROW_FORMATS] + [{"hot_store": name} for name in STORES]
)
def test_evaluate_trains_every_store(knobs: dict[str, str]) -> None:
    measured = run_cell(make_cell("cafe", 20.0, **knobs))
    assert measured["bytes"] <= measured["budget_bytes"]
    assert measured["auc"] > 0.5


@pytest.mark.parametrize("row_format", STORES)
def test_evaluates_other_methods_take_every_store_too(row_format: str) -> None:
    assert run_cell(make_cell("hash", 5.0, row_format=row_format))["auc"] > 0.5
