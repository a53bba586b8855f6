"""CUDA equals the CPU: steps, importance, gates, promotions, in every row format.

The same tests run on a CPU, on the torch body and on Triton's interpreter, so that they are known to be right.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from test_embedding_adaptive import (
    CAPACITY,
    DIM,
    FIELDS,
    INTERPRETED,
    changes_of,
    keys_of,
    random_keys,
    rows_of,
    weights_for,
)

from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.backends import Backend
from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.layout import Layout
from trainer.embedding.plans import EmbeddingPlan, hash_plan
from trainer.embedding.stores.noise import Noise
from trainer.embedding.stores.registry import ROW_FORMATS, store_class
from trainer.embedding.stores.rows import RowOptimizer

AHEAD = 1 << 20  # lookups, from which on they are sorted ahead: `trainer.embedding.fused.shapes` needs Triton
ON_CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: run `pytest -m gpu` where there is one"),
]
WHERE = [
    pytest.param("cpu", "torch"),
    pytest.param("cpu", "triton", marks=INTERPRETED),
    pytest.param("cuda", "torch", marks=ON_CUDA),
    pytest.param("cuda", "triton", marks=ON_CUDA),
]


def rounding(row_format: str) -> float:
    """The tolerance between two backends after a few steps."""
    return 1e-5 + 3 * store_class(row_format).precision


pytestmark = [pytest.mark.parametrize(("device", "backend"), WHERE), pytest.mark.parametrize("row_format", ROW_FORMATS)]


def plan_of(row_format: str) -> EmbeddingPlan:
    layout = Layout(num_fields=FIELDS, capacity_rows=CAPACITY, level_1_per_field=6, level_2_rows=12)
    return EmbeddingPlan(layout=layout, dim=DIM, router_keys=32, row_format=row_format)


def make(row_format: str, device: str, backend: Backend) -> AdaptiveEmbedding:
    """An embedding with a backend that is not numba."""
    optimizer = RowOptimizer(learning_rate=0.1)
    return AdaptiveEmbedding(
        plan_of(row_format), optimizer=optimizer, seed=3, device=torch.device(device), backend=backend
    )


def train(embedding: AdaptiveEmbedding | HashEmbedding, keys: np.ndarray, steps: int) -> list[dict[int, float]]:  # type: ignore[type-arg]
    """Trains on keys (B, F); returns the importance of each step."""
    importances = []
    for step in range(steps):
        vectors = embedding(keys)
        (weights_for(keys, step).to(vectors.device) * vectors.sin()).sum(dim=(1, 2)).mean().backward()
        importance = embedding.apply_gradients()
        if importance is not None:
            importances.append(dict(zip(importance.keys.tolist(), importance.scores.tolist(), strict=True)))
    return importances


def test_steps_importance_and_gates_equal_the_cpus(row_format: str, device: str, backend: Backend) -> None:
    numba = AdaptiveEmbedding(plan_of(row_format), optimizer=RowOptimizer(learning_rate=0.1), seed=3)
    other, keys = make(row_format, device, backend), random_keys(12, rows=24)
    distinct = np.unique(keys)
    changes = changes_of(*[(int(key), row) for row, key in enumerate(distinct[:CAPACITY])])
    numba.migrate(changes)
    other.migrate(changes)
    for mine, theirs in zip(train(numba, keys, 3), train(other, keys, 3), strict=True):
        assert mine.keys() == theirs.keys()
        assert [theirs[key] for key in mine] == pytest.approx(list(mine.values()), rel=10 * rounding(row_format))
    with torch.no_grad():
        torch.testing.assert_close(other(keys).cpu(), numba(keys), rtol=0, atol=rounding(row_format))
    torch.testing.assert_close(other.gate.values.cpu(), numba.gate.values, rtol=0, atol=rounding(row_format))
    assert rows_of(other).device.type == other.gate.values.device.type == device


def test_promotion_keeps_the_vector_for_every_field(row_format: str, device: str, backend: Backend) -> None:
    embedding, keys = make(row_format, device, backend), keys_of([[11, 12, 13], [21, 22, 23], [31, 32, 33]])
    embedding.migrate(changes_of((int(keys[2, 0]), 0)))
    train(embedding, keys, 2)
    with torch.no_grad():
        before = embedding(keys).cpu().numpy()
        hot = [(int(key), 1 + row) for row, key in enumerate(keys[:2].reshape(-1))]
        embedding.migrate(changes_of(*hot, (int(keys[2, 0]), 7)))  # from another row
        after = embedding(keys).cpu().numpy()
    unit = 2e-6 + 1.1 * store_class(row_format).precision
    assert (np.abs(after - before) <= unit * np.abs(before).max(axis=-1, keepdims=True)).all()
    np.testing.assert_array_equal(after[2], before[2])


def test_the_hash_table_and_the_random_bits_equal_the_cpus(row_format: str, device: str, backend: Backend) -> None:
    sizes, keys = hash_plan(6000, DIM, FIELDS, row_format=row_format), random_keys(13, rows=24)
    numba = HashEmbedding(sizes, optimizer=RowOptimizer(learning_rate=0.1))
    other = HashEmbedding(
        sizes, optimizer=RowOptimizer(learning_rate=0.1), device=torch.device(device), backend=backend
    )
    train(numba, keys, 3)
    train(other, keys, 3)
    with torch.no_grad():
        torch.testing.assert_close(other(keys).cpu(), numba(keys), rtol=0, atol=rounding(row_format))
    rows = torch.arange(100)
    assert torch.equal(Noise(1, 2).bits(rows.to(device), 37).cpu(), Noise(1, 2).bits(rows, 37))


@contextlib.contextmanager
def no_synchronisation(device: str) -> Iterator[None]:
    """Every call that waits for the device raises an error."""
    if device != "cuda":
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_is_a_function_of_state_and_batch_and_waits_for_nothing(
    row_format: str, device: str, backend: Backend
) -> None:
    keys = torch.from_numpy(random_keys(14, rows=8).view(np.int64)).to(device)
    results = []
    for _ in range(2):
        embedding = make(row_format, device, backend)
        for _ in range(2):
            with no_synchronisation(device):
                embedding(keys).sin().sum(dim=(1, 2)).mean().backward()
            importance = embedding.apply_gradients()
        results.append([torch.from_numpy(importance.scores), *(one.cpu() for one in embedding.tensors().values())])
    if (device, backend) != ("cuda", "torch"):  # there, index_add_ adds in any order
        assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: run `pytest -m gpu` where there is one")
def test_a_large_batch_that_is_sorted_ahead_trains_as_one_that_is_not(
    row_format: str, device: str, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (device, backend) != ("cuda", "triton"):
        pytest.skip("only the triton body sorts on CUDA")
    keys = random_keys(15, rows=AHEAD // FIELDS + 1, values=1 << 20)
    one, other = (make(row_format, device, backend) for _ in range(2))
    train(one, keys, 2)
    monkeypatch.setattr("trainer.embedding.fused.body.AHEAD", 1 << 30)
    train(other, keys, 2)
    assert all(torch.equal(mine, other.tensors()[name]) for name, mine in one.tensors().items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: run `pytest -m gpu` where there is one")
def test_a_fused_step_waits_for_nothing(row_format: str, device: str, backend: Backend) -> None:
    if (device, backend) != ("cuda", "triton"):
        pytest.skip("only the triton body has a fused step")
    embedding = make(row_format, device, backend)
    keys = torch.from_numpy(random_keys(14, rows=24).view(np.int64)).to(device)
    fused = embedding._fused  # noqa: SLF001
    assert fused is not None
    with no_synchronisation(device):
        routed, words = fused.route(keys.view(-1)), keys.view(-1)
        fused.learn(words, routed, fused.gather(routed), 24)
