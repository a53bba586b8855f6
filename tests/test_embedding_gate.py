"""The learned gates: for each field, a scalar for unique rows, for level 1 and for level 2."""

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
    keys_of,
    learn,
    random_keys,
    vectors_of,
    weights_for,
)

from sketch.changes import Changes
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.backends import Backend
from trainer.embedding.layout import Layout
from trainer.embedding.plans import EmbeddingPlan
from trainer.embedding.stores.registry import ROW_FORMATS, store_class
from trainer.embedding.stores.rows import RowOptimizer
from trainer.errors import CheckpointError


def make(backend: Backend = "numba", row_format: str = "float32") -> AdaptiveEmbedding:
    layout = Layout(num_fields=FIELDS, capacity_rows=CAPACITY, level_1_per_field=6, level_2_rows=12)
    sizes = EmbeddingPlan(layout=layout, dim=DIM, optimizer="sgd", router_keys=32, row_format=row_format)
    return AdaptiveEmbedding(sizes, optimizer=RowOptimizer(learning_rate=0.1), seed=3, backend=backend)


def mixed_tiers() -> tuple[torch.Tensor, Changes]:
    """Keys (64, F) as int64, and changes that make some of them hot."""
    keys = random_keys(5)
    distinct = np.unique(keys)
    hot = [(int(key), row) for row, key in enumerate(distinct[::3][:CAPACITY])]
    return torch.from_numpy(keys.view(np.int64)), changes_of(*hot)


def train(embedding: AdaptiveEmbedding, steps: int) -> None:
    keys, changes = mixed_tiers()
    embedding.migrate(changes)
    for step in range(steps):
        learn(embedding, keys.numpy().view(np.uint64), weights_for(keys.numpy(), step))
        embedding.apply_gradients()


def test_both_bodies_learn_the_same_gates() -> None:
    one, other = make("numba"), make("torch")
    for embedding in (one, other):
        train(embedding, 12)
    torch.testing.assert_close(one.gate.values, other.gate.values, rtol=1e-3, atol=1e-4)
    assert ((one.gate.values != 1) == (one.gate.state > 0)).all()
    assert (one.gate.state > 0).sum() >= 2 * FIELDS


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gate_stays_in_its_range_and_comes_back(backend: Backend) -> None:
    gate = make(backend).gate
    for _ in range(500):
        gate.learn(torch.ones(FIELDS, 3))
    torch.testing.assert_close(gate.values, torch.tensor([0.1, 0.01, 0.01]).expand(FIELDS, 3))
    gate.learn(-torch.ones(FIELDS, 3))
    assert (gate.values > torch.tensor([0.1, 0.01, 0.01])).all()
    for _ in range(100_000 // 20):
        gate.learn(-20 * torch.ones(FIELDS, 3))
    assert (gate.values <= 10).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_promotion_keeps_the_gated_vector_for_every_field(row_format: str, backend: Backend) -> None:
    embedding = make(backend, row_format)
    embedding.gate.values.copy_(torch.linspace(0.4, 2.5, 3 * FIELDS).view(FIELDS, 3))
    keys = keys_of([[11, 12, 13], [21, 22, 23], [31, 32, 33]])
    embedding.migrate(changes_of((int(keys[2, 0]), 0)))
    before = vectors_of(embedding, keys)
    hot = [(int(key), 1 + row) for row, key in enumerate(keys[:2].reshape(-1))]
    embedding.migrate(changes_of(*hot, (int(keys[2, 0]), 7)))  # from another row
    after = vectors_of(embedding, keys)
    peaks = np.abs(before).max(axis=-1, keepdims=True)
    unit = peaks * (2e-6 + 1.1 * store_class(row_format).precision)
    assert (np.abs(after - before) <= unit).all()
    np.testing.assert_array_equal(after[2], before[2])


def test_the_gate_is_in_the_checkpoint_and_in_the_bytes() -> None:
    one, other = make(), make()
    train(one, 2)
    other.load_tensors({name: tensor.clone() for name, tensor in one.tensors().items()})
    assert torch.equal(one.gate.values, other.gate.values)
    assert torch.equal(one.gate.state, other.gate.state)
    assert one.nbytes["gate"] == one.plan.nbytes["gate"] == FIELDS * 24
    without = {name: tensor for name, tensor in one.tensors().items() if name != "gate"}
    with pytest.raises(CheckpointError, match="gate: the checkpoint has none"):
        one.load_tensors(without)
