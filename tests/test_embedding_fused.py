"""The fused Triton kernels, interpreted on a CPU: every format, segments that cross spans, and where they are refused.

What they share with the other bodies is tested with these: `BODIES` of `test_embedding_adaptive`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_embedding_adaptive import (
    CAPACITY,
    DIM,
    FIELDS,
    INTERPRETED,
    changes_of,
    learn,
    random_keys,
    rows_of,
    weights_for,
)

from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.backends import Backend, choose_backend, has_triton
from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.layout import Layout
from trainer.embedding.plans import EmbeddingPlan, hash_plan
from trainer.embedding.stores.registry import STORES
from trainer.embedding.stores.rows import RowOptimizer

if has_triton():
    import triton
    import triton.language as tl

    from trainer.embedding.fused.segments import sum_segments

    @triton.jit
    def sum_both(values, begins, out, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
        """Sums values (SIZE, SIZE) as the interpreter does, and as a GPU does."""
        at = tl.arange(0, SIZE)
        square, begin = at[:, None] * SIZE + at[None, :], tl.load(begins + at)
        tl.store(out + square, sum_segments(tl.load(values + square), begin, True))
        tl.store(out + SIZE * SIZE + square, sum_segments(tl.load(values + square), begin, False))


PAIRS = [("float32", None), ("bfloat16", "half_width"), ("int8", "int4")]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def make(
    backend: Backend, row_format: str = "float32", hot_store: str | None = None, first: int = 6
) -> AdaptiveEmbedding:
    """An embedding with hot keys; the triton body adds spans of eight entries, so that most segments cross one."""
    layout = Layout(num_fields=FIELDS, capacity_rows=CAPACITY, level_1_per_field=first, level_2_rows=12)
    plan = EmbeddingPlan(layout=layout, dim=DIM, router_keys=32, row_format=row_format, hot_store=hot_store)
    embedding = AdaptiveEmbedding(plan, optimizer=RowOptimizer(learning_rate=0.1), seed=3, backend=backend)
    if embedding._fused:  # noqa: SLF001
        embedding._fused.tuning = replace(embedding._fused.tuning, tile=8, tiles=1)  # noqa: SLF001
    keys = np.unique(random_keys(1, values=5))
    embedding.migrate(changes_of(*[(int(key), row) for row, key in enumerate(keys[::2][:CAPACITY])]))
    return embedding


def step(embedding: AdaptiveEmbedding, seed: int, passes: int = 1) -> dict[int, float]:
    """Trains one step; returns the importance."""
    for number in range(passes):
        keys = random_keys(seed + number, rows=12, values=5)
        learn(embedding, keys, weights_for(keys, seed))
    importance = embedding.apply_gradients()
    assert len(np.unique(importance.keys)) == len(importance.keys)
    return dict(zip(importance.keys.tolist(), importance.scores.tolist(), strict=True))


def assert_close(one: AdaptiveEmbedding, other: AdaptiveEmbedding) -> None:
    """All state is equal but for the last bits of sums; a value may be rounded to its neighbour for one in fifty."""
    expected, found = one.tensors(), other.tensors()
    for name, tensor in expected.items():
        distance = (tensor.float() - found[name].float()).abs()
        if tensor.dtype in (torch.float32, torch.int64, torch.int32):
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
        elif len(tensor):
            assert (distance > 1e-6).float().mean() <= 0.02, name


@INTERPRETED
@pytest.mark.parametrize(("row_format", "hot_store"), PAIRS)
def test_segments_that_cross_spans_equal_the_torch_body(row_format: str, hot_store: str | None) -> None:
    one, other = make("torch", row_format, hot_store), make("triton", row_format, hot_store)
    for seed in range(2 if hot_store is None else 1):
        expected, found = step(one, seed), step(other, seed)
        assert found.keys() == expected.keys()
        assert [found[key] for key in expected] == pytest.approx(list(expected.values()), rel=1e-5)
    assert_close(one, other)


@INTERPRETED
def test_the_forward_is_bit_for_bit_that_of_the_torch_body() -> None:
    keys = random_keys(2, rows=20, values=5)
    for row_format, hot_store in PAIRS:
        with torch.no_grad():
            one, other = (make(body, row_format, hot_store)(keys) for body in ("torch", "triton"))
        assert torch.equal(one, other), row_format


@INTERPRETED
def test_more_rows_of_level_1_than_fit_beside_a_payload_and_several_passes() -> None:
    one, other = (make(body, first=50) for body in ("torch", "triton"))
    for passes in (1, 2):
        expected, found = step(one, 3, passes), step(other, 3, passes)
        assert found == pytest.approx(expected, rel=1e-5)
    assert_close(one, other)


@INTERPRETED
def test_hash_rows_that_cross_spans_equal_the_torch_body() -> None:
    plan, keys, results = hash_plan(600, DIM, FIELDS), random_keys(4, rows=20, values=9), []
    for body in ("torch", "triton"):
        embedding = HashEmbedding(plan, optimizer=RowOptimizer(learning_rate=0.1), backend=body)  # type: ignore[arg-type]
        if embedding._fused:  # noqa: SLF001
            embedding._fused.tuning = replace(embedding._fused.tuning, tile=4, tiles=2)  # noqa: SLF001
        learn(embedding, keys, weights_for(keys))
        embedding.apply_gradients()
        results.append(rows_of(embedding))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@INTERPRETED
def test_the_scan_of_a_gpu_equals_the_product_of_the_interpreter() -> None:
    values, begins = torch.arange(16.0).view(4, 4), torch.tensor([0, 1, 0, 1], dtype=torch.int32)
    out = torch.empty(2, 4, 4)
    sum_both[(1,)](values, begins, out, 4)
    expected = torch.stack([values[0], values[1], values[1] + values[2], values[3]])
    assert torch.equal(out, expected.expand(2, 4, 4))


@INTERPRETED
def test_every_store_has_its_kernels() -> None:
    for hot_store in STORES:
        assert make("triton", "float32", hot_store).backend == "triton"


def test_the_default_on_a_gpu_is_triton_unless_vectors_are_too_long_for_it() -> None:
    assert choose_backend(CUDA, None, 512) == ("triton" if has_triton() else "torch")
    assert choose_backend(CUDA, None, 513) == "torch"
    assert choose_backend(CPU, None) == "numba"


def test_triton_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="needs a GPU, got device cpu; TRITON_INTERPRET=1"):
        choose_backend(CPU, "triton")
    with pytest.raises(ValueError, match="got dimension 513, expected at most 512; choose 'torch'"):
        choose_backend(CUDA, "triton", 513)
