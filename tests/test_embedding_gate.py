"""The learned gates: for each field, one scalar for its shared vectors and one for its unique vectors."""

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
    composed,
    keys_of,
    learn,
    random_keys,
    routes_of,
    rows_of,
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

LEARNING_RATE, EPSILON = 0.01, 1e-6  # of the gate


def make(
    backend: Backend = "numba", row_format: str = "float32", *, gate: bool = True, learning_rate: float = 0.1
) -> AdaptiveEmbedding:
    layout = Layout(num_fields=FIELDS, capacity_rows=CAPACITY, level_1_per_field=6, level_2_rows=12)
    sizes = EmbeddingPlan(layout=layout, dim=DIM, optimizer="sgd", router_keys=32, row_format=row_format, gate=gate)
    return AdaptiveEmbedding(sizes, optimizer=RowOptimizer(learning_rate=learning_rate), seed=3, backend=backend)


def mixed_tiers() -> tuple[torch.Tensor, Changes]:
    """Keys (64, F) as int64, and changes that make some of them hot."""
    keys = random_keys(5)
    distinct = np.unique(keys)
    hot = [(int(key), row) for row, key in enumerate(distinct[::3][:CAPACITY])]
    return torch.from_numpy(keys.view(np.int64)), changes_of(*hot)


def tiers_of(embedding: AdaptiveEmbedding, keys: torch.Tensor) -> torch.Tensor:
    """The tier of each key (B, F): 0 shared, 1 unique."""
    return (embedding.router.route(keys.reshape(-1)) >= 0).long().view(keys.shape)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gated_step_equals_autograd(backend: Backend) -> None:
    embedding, (keys, changes) = make(backend), mixed_tiers()
    embedding.migrate(changes)
    assert embedding.gate is not None
    routes = routes_of(embedding, keys.reshape(-1))
    table, gate, state = rows_of(embedding), torch.ones(FIELDS, 2), torch.zeros(FIELDS, 2)
    tiers = tiers_of(embedding, keys)
    assert set(tiers.unique().tolist()) == {0, 1}
    for step in range(4):
        weights = weights_for(keys.numpy(), step)
        table, gate = table.detach().requires_grad_(), gate.detach().requires_grad_()
        factors = gate[torch.arange(FIELDS), tiers]  # (B, F)
        vectors = composed(table, routes).view(*keys.shape, DIM) * factors[..., None]
        vectors.retain_grad()
        (weights * vectors.sin()).sum(dim=(1, 2)).mean().backward()
        assert table.grad is not None
        assert gate.grad is not None
        assert vectors.grad is not None
        table.grad[-1] = 0  # the padding row does not learn
        learn(embedding, keys.numpy().view(np.uint64), weights)
        importance = embedding.apply_gradients()
        norms = vectors.grad.norm(dim=2).numpy() * len(keys)
        expected = [norms[keys.numpy().view(np.uint64) == key].sum() for key in importance.keys]
        np.testing.assert_allclose(importance.scores, expected, rtol=1e-4)
        state = state + gate.grad.square()
        gate = gate - LEARNING_RATE * gate.grad / (state.sqrt() + EPSILON)
        table = table - 0.1 * table.grad
    torch.testing.assert_close(rows_of(embedding), table.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(embedding.gate.values, gate.detach(), rtol=1e-4, atol=1e-5)
    assert ((embedding.gate.values != 1) == (state > 0)).all(), "a gate learns where its tier occurs"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_promotion_keeps_the_gated_vector_for_every_field(row_format: str, backend: Backend) -> None:
    embedding = make(backend, row_format)
    assert embedding.gate is not None
    embedding.gate.values.copy_(torch.linspace(0.4, 2.5, 2 * FIELDS).view(FIELDS, 2))
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


def test_a_gate_of_one_changes_nothing() -> None:
    keys, changes = mixed_tiers()
    one, other = make(), make(gate=False)
    for embedding in (one, other):
        embedding.migrate(changes)
        learn(embedding, keys.numpy().view(np.uint64), weights_for(keys.numpy()))
        embedding.apply_gradients()
    assert torch.equal(rows_of(one), rows_of(other))


def test_the_gate_is_in_the_checkpoint_and_in_the_bytes() -> None:
    keys, changes = mixed_tiers()
    one, other, without = make(), make(), make(gate=False)
    one.migrate(changes)
    learn(one, keys.numpy().view(np.uint64), weights_for(keys.numpy()))
    one.apply_gradients()
    other.load_tensors({name: tensor.clone() for name, tensor in one.tensors().items()})
    assert one.gate is not None
    assert other.gate is not None
    assert torch.equal(one.gate.values, other.gate.values)
    assert torch.equal(one.gate.state, other.gate.state)
    assert one.nbytes["gate"] == one.plan.nbytes["gate"] == FIELDS * 16
    assert without.nbytes["total"] == one.nbytes["total"] - FIELDS * 16
    with pytest.raises(CheckpointError, match="gate: the checkpoint has none"):
        one.load_tensors(without.tensors())
