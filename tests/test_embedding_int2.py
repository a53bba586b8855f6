"""Two bits per value: how values are packed, the largest error, and what stochastic rounding keeps on average."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.embedding.lookup import reads_of_rows
from trainer.embedding.stores.int2 import Int2Rows
from trainer.embedding.stores.registry import STORES, row_bytes, store_class, vector_bytes
from trainer.embedding.stores.rows import RowOptimizer, RowSizes
from trainer.embedding.stores.store import Sums

NUM_ROWS = 400


def store_of(dim: int, optimizer="sgd", learning_rate=0.15) -> Int2Rows:
    sizes = RowSizes(num_rows=NUM_ROWS, dim=dim, optimizer=optimizer, is_padded=True)
    return Int2Rows(
        sizes, optimizer=RowOptimizer(learning_rate=learning_rate), initial=torch.Generator().manual_seed(0), seed=3
    )


def everything() -> torch.Tensor:
    return torch.arange(NUM_ROWS)[:, None]


@pytest.mark.parametrize("dim", [1, 4, 5, 16])
def test_four_values_share_a_byte_and_the_error_is_at_most_half_a_step(dim: int) -> None:
    store, vectors = store_of(dim), torch.randn(NUM_ROWS, dim, generator=torch.Generator().manual_seed(1))
    store.write(everything(), vectors)
    assert store.nbytes["rows"] == (NUM_ROWS + 1) * vector_bytes("int2", dim)
    decoded, scales = store.read(everything()), store.row_scales[:NUM_ROWS].float()[:, None]
    bits = torch.cat([store.values[:NUM_ROWS] >> shift & 3 for shift in (0, 2, 4, 6)], dim=1)[:, :dim]
    assert torch.equal(decoded, (bits.float() - 1.5) * scales)
    assert ((decoded - vectors).abs() <= 0.5001 * scales).all()
    assert ((decoded - vectors).abs() <= 1.01 * store.precision * vectors.abs().amax(dim=1, keepdim=True)).all()
    copied = store_of(dim)
    copied.write(everything(), decoded, like=store.scales(everything()))
    exact = decoded.abs().amax(dim=1) > 1.4 * scales[:, 0]  # rows whose peak is at the end of the range
    assert exact.any()
    assert torch.equal(copied.read(everything())[exact], decoded[exact])


def test_a_row_of_zeros_stays_zero_and_learns() -> None:
    store = store_of(16)
    zeros, first = torch.zeros(NUM_ROWS, 16), np.arange(NUM_ROWS, dtype=np.int32)
    store.write(everything(), zeros)
    assert torch.equal(store.read(everything()), zeros)
    assert not store.read(torch.tensor([[NUM_ROWS]])).any()  # the padding
    store.step(Sums(rows=first, gradients=np.ones((NUM_ROWS, 16), np.float32), padding=NUM_ROWS))
    read = store.read(everything())
    assert read.mean() == pytest.approx(-0.15, rel=0.02)
    assert len(read.unique()) == 2  # rounded to either side


def test_steps_keep_the_sum_on_average_and_equal_seeds_are_equal() -> None:
    rows, gradients = np.arange(NUM_ROWS, dtype=np.int32), np.full((NUM_ROWS, 16), 0.01, np.float32)
    vectors = torch.randn(NUM_ROWS, 16, generator=torch.Generator().manual_seed(2))
    found = []
    for _ in range(2):
        store = store_of(16, learning_rate=1.0)
        store.write(everything(), vectors)
        before = store.read(everything())
        for _ in range(20):
            store.step(Sums(rows=rows, gradients=gradients, padding=NUM_ROWS))
        found.append(store.read(everything()))
    assert torch.equal(*found)
    assert (found[0] - before).mean() == pytest.approx(-0.2, abs=0.08)  # rounding to nearest would change nothing


@pytest.mark.parametrize("dim", [4, 5])
def test_a_lookup_reads_the_rows_in_its_order(dim: int) -> None:
    store, wanted = store_of(dim), np.array([7, 3, 7, NUM_ROWS, 0], np.uint64)
    out = torch.full((5, dim), 9.0)
    store.gather(reads_of_rows(wanted), out)
    assert torch.equal(out, store.read(torch.from_numpy(wanted.astype(np.int64))[:, None]))


@pytest.mark.parametrize("dim", [2, 5, 16])
@pytest.mark.parametrize("name", [*STORES, "int2"])
def test_the_bytes_that_are_known_without_torch_are_those_of_the_class(name: str, dim: int) -> None:
    assert vector_bytes(name, dim) == store_class(name).vector_bytes(dim)
    for optimizer in ("adagrad", "sgd"):
        assert row_bytes(name, dim, optimizer) == store_class(name).row_bytes(dim, optimizer)
