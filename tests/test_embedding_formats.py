"""The row formats: numba and torch bodies agree, rounding is unbiased, and promotions keep vectors."""

from __future__ import annotations

from dataclasses import replace

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
from torch import Tensor

from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.backends import Backend
from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.layout import Layout
from trainer.embedding.plans import EmbeddingPlan, hash_plan, plan
from trainer.embedding.stores.formats import ScaledRows
from trainer.embedding.stores.registry import ROW_FORMATS, STORES, store_class
from trainer.embedding.stores.rows import RowOptimizer, RowSizes, RowStore
from trainer.embedding.stores.store import OptimizerName, Reads, Sums
from trainer.errors import CheckpointError, PlanError

SMALL = [name for name in ROW_FORMATS if name != "float32"]
NUM_ROWS = 40


def make(row_format: str, backend: Backend = "numba", level_2: int = 12) -> AdaptiveEmbedding:
    layout = Layout(num_fields=FIELDS, capacity_rows=CAPACITY, level_1_per_field=6, level_2_rows=level_2)
    sizes = EmbeddingPlan(layout=layout, dim=DIM, router_keys=32, row_format=row_format)
    return AdaptiveEmbedding(sizes, optimizer=RowOptimizer(learning_rate=0.1), seed=3, backend=backend)


def store_of(
    row_format: str,
    dim: int = 16,
    backend: Backend = "numba",
    optimizer: OptimizerName = "adagrad",
    learning_rate: float = 0.1,
) -> RowStore:
    sizes = RowSizes(num_rows=NUM_ROWS, dim=dim, optimizer=optimizer, first_row=100)
    constants = RowOptimizer(learning_rate=learning_rate, epsilon=1e-8)
    initial = torch.Generator().manual_seed(1)
    return store_class(row_format)(sizes, optimizer=constants, initial=initial, seed=7, backend=backend)


def random_vectors(dim: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(NUM_ROWS, dim, generator=torch.Generator().manual_seed(seed))


def everything() -> Tensor:
    return torch.arange(NUM_ROWS)[:, None]


def learn_rows(store: RowStore, rows: Tensor, gradients: Tensor) -> None:
    numba = rows.dtype == torch.int32
    found, sums = (rows.numpy(), gradients.numpy()) if numba else (rows, gradients)
    store.step(Sums(rows=found, gradients=sums, padding=NUM_ROWS))


def quanta(store: RowStore, vectors: Tensor) -> Tensor:
    """The distance between neighbouring values of the format, (R, 1) or (R, D)."""
    if len(store.row_scales):
        return store.row_scales.float()[:, None]
    if store.values.dtype == torch.bfloat16:
        return torch.ldexp(torch.ones_like(vectors), torch.frexp(vectors).exponent - 8)
    return torch.full_like(vectors, 1e-6)


@pytest.mark.parametrize("row_format", SMALL)
def test_values_are_rounded_to_nearest(row_format: str) -> None:
    store, vectors = store_of(row_format), random_vectors()
    store.write(everything(), vectors)
    assert ((store.read(everything()) - vectors).abs() <= quanta(store, vectors) * 0.5001).all()


@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
@pytest.mark.parametrize("row_format", STORES)
@pytest.mark.parametrize("dim", [3, 16, 29])
def test_numba_and_torch_train_the_same_rows(row_format: str, optimizer: OptimizerName, dim: int) -> None:
    mine, other = (store_of(row_format, dim, backend, optimizer) for backend in BACKENDS)
    assert torch.equal(mine.read(everything()), other.read(everything()))
    for store in (mine, other):
        store.write(everything(), random_vectors(dim))
    before, rows = mine.read(everything()), torch.arange(0, NUM_ROWS, 2)
    for turn in range(6):
        gradients = torch.randn(len(rows), dim, generator=torch.Generator().manual_seed(turn)) * 3.0 ** (turn - 3)
        learn_rows(mine, rows.int(), gradients)
        learn_rows(other, rows, gradients)
    distance = (mine.read(everything()) - other.read(everything())).abs()
    assert (distance <= 1.01 * quanta(mine, before.abs() + 2)).all()
    assert (distance > 1e-5).float().mean() < 0.02, "the random bits are the same"
    torch.testing.assert_close(mine.state, other.state)
    assert torch.equal(mine.read(everything()[1::2]), before[1::2])
    assert not torch.equal(mine.read(everything()[::2]), before[::2])
    if isinstance(mine, ScaledRows):
        peaks = mine.read(everything()).abs().amax(dim=1) / mine.row_scales.float() / mine.limit
        assert ((peaks > 0.48 - 1 / mine.limit) & (peaks < 1.01)).all(), "every row uses at least half of its range"


@pytest.mark.parametrize("row_format", STORES)
@pytest.mark.parametrize("dim", [5, 16, 29])
def test_numba_and_torch_gather_the_same_vectors_and_sum_the_same_gradients(row_format: str, dim: int) -> None:
    initial, rng = torch.Generator(), np.random.default_rng(dim)
    numba, other = (
        store_class(row_format)(
            RowSizes(num_rows=NUM_ROWS, dim=dim),
            optimizer=RowOptimizer(),
            initial=initial.manual_seed(1),
            backend=backend,
        )
        for backend in BACKENDS
    )
    inverse = rng.integers(0, 9, 50).astype(np.int32)
    addresses = rng.permutation(NUM_ROWS)[:9, None].astype(np.int32)
    fields, gates = rng.integers(0, 3, 9).astype(np.uint8), rng.random((3, 1), np.float32) + np.float32(0.5)
    mine = Reads(addresses=addresses, inverse=inverse, fields=fields, gates=gates)
    is_there = np.arange(60) < 50  # the torch body also gets lookups that the store does not serve
    every = np.resize(inverse, 60)
    words = torch.from_numpy(np.where(is_there[:, None], addresses[every], -1).astype(np.int64))
    of_lookups = torch.from_numpy(fields[every].astype(np.int64))
    theirs = Reads(addresses=words, fields=of_lookups, gates=torch.from_numpy(gates))
    out, expected, gradient = torch.zeros(50, dim), torch.zeros(60, dim), torch.randn(60, dim)
    numba.gather(mine, out)
    other.gather(theirs, expected)
    torch.testing.assert_close(out, expected[:50], rtol=1e-6, atol=1e-6)
    assert (expected[50:] == 0).all()
    vectors = torch.zeros(9, dim)
    numba.gather(replace(mine, inverse=None), vectors)
    torch.testing.assert_close(vectors[inverse], out, rtol=0, atol=0)
    one, two = numba.sum_gradients(mine, gradient[:50].clone(), vectors), other.sum_gradients(theirs, gradient)
    sums = torch.zeros(2, NUM_ROWS + 1, dim)
    sums[0][torch.from_numpy(one.sums[0].rows).long()] = torch.from_numpy(one.sums[0].gradients)
    sums[1].index_add_(0, two.sums[0].rows, two.sums[0].gradients)
    torch.testing.assert_close(sums[0, :NUM_ROWS], sums[1, :NUM_ROWS], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.from_numpy(one.slopes), two.slopes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_a_step_can_shrink_the_rows_it_trains(row_format: str, backend: Backend) -> None:
    store, rows = store_of(row_format, backend=backend), torch.arange(0, NUM_ROWS, 2)
    store.write(everything(), random_vectors())
    before = store.read(everything())
    index = rows.int().numpy() if backend == "numba" else rows
    zeros = torch.zeros(len(rows), 16)
    gradients = zeros.numpy() if backend == "numba" else zeros
    for _ in range(50):
        store.step(Sums(rows=index, gradients=gradients, padding=NUM_ROWS), 0.98)
    after = store.read(everything())
    assert torch.equal(after[1::2], before[1::2])
    ratio = (after[::2] * before[::2]).sum() / before[::2].square().sum()
    assert abs(ratio - 0.98**50) < 0.02, "also where a step is smaller than the distance of two values"


@pytest.mark.parametrize("row_format", SMALL)
def test_rounding_is_unbiased_and_small_steps_are_not_lost(row_format: str) -> None:
    store, rows = store_of(row_format, optimizer="sgd", learning_rate=1.0), torch.arange(NUM_ROWS)
    store.write(everything(), random_vectors())
    before = store.read(everything())
    quantum = quanta(store, before)
    step = (quantum * 0.01).expand_as(before).contiguous()
    for _ in range(400):
        learn_rows(store, rows.int(), step)
    moved = (before - store.read(everything())) / quantum
    assert abs(moved.mean() - 4.0) < 0.2  # 400 steps of a hundredth, which rounding to nearest would all discard
    before = store.read(everything())
    learn_rows(store, rows.int(), torch.zeros_like(before))
    assert torch.equal(store.read(everything()), before), "no gradient, no change"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row_format", SMALL)
@pytest.mark.parametrize("level_2", [0, 12])
def test_promotion_keeps_the_vector_but_for_rounding(row_format: str, backend: Backend, level_2: int) -> None:
    embedding = make(row_format, backend, level_2)
    keys = keys_of([[11, 12, 13], [21, 22, 23]])
    learn(embedding, keys, weights_for(keys))
    embedding.apply_gradients()
    before = vectors_of(embedding, keys)
    embedding.migrate(changes_of(*[(int(key), row) for row, key in enumerate(keys.reshape(-1))]))
    after = vectors_of(embedding, keys)
    unit = np.abs(before).max(axis=-1, keepdims=True) * (2e-6 + 1.1 * store_class(row_format).precision)
    assert (np.abs(after - before) <= unit).all()


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_steps_of_both_backends_agree_within_a_rounding(row_format: str) -> None:
    one, other = make(row_format, "numba"), make(row_format, "torch")
    keys = random_keys(5)
    hot = changes_of(*[(int(key), row) for row, key in enumerate(np.unique(keys)[:CAPACITY])])
    for embedding in (one, other):
        embedding.migrate(hot)
        for step in range(3):
            learn(embedding, keys, weights_for(keys, step))
            importance = embedding.apply_gradients()
            assert np.isfinite(importance.scores).all()
    bound = 1e-5 + 3 * store_class(row_format).precision
    np.testing.assert_allclose(vectors_of(one, keys), vectors_of(other, keys), atol=bound)


@pytest.mark.parametrize("row_format", SMALL)
def test_learning_in_a_small_format_follows_float32(row_format: str) -> None:
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
def test_bytes_are_what_the_format_takes(row_format: str) -> None:
    sizes = plan(300_000, 16, 26, row_format=row_format)
    allocated = AdaptiveEmbedding(sizes).nbytes
    assert {name: allocated[name] for name in sizes.nbytes} == sizes.nbytes
    assert allocated["rows"] == sizes.layout.num_rows * store_class(row_format).vector_bytes(16)
    assert 0.97 * 300_000 < allocated["total"] <= 300_000
    assert HashEmbedding(hash_plan(300_000, 16, 26, row_format=row_format)).nbytes["total"] <= 300_000


def test_a_checkpoint_of_another_format_and_an_unknown_format_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"values: got .*int8, expected .*bfloat16"):
        make("bfloat16").load_tensors(make("int8").tensors())
    with pytest.raises(PlanError, match="row format: got 'int3', expected one of float32, bfloat16, int8"):
        plan(300_000, 16, 26, row_format="int3")


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_rounding_continues_from_a_checkpoint(row_format: str) -> None:
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
