"""Rows of half the width: the left half is stored and learns, the right half is zero."""

from __future__ import annotations

import pytest
import torch
from test_embedding_formats import BACKENDS, NUM_ROWS, everything, learn_rows, random_vectors, store_of

from trainer.embedding.backends import Backend
from trainer.errors import PlanError


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dim", [2, 5, 16])
def test_the_left_half_is_kept_and_learns_and_the_right_half_stays_zero(dim: int, backend: Backend) -> None:
    store, vectors, half = store_of("half_width", dim, backend, "sgd", learning_rate=0.5), random_vectors(dim), dim // 2
    store.write(everything(), vectors)
    assert store.nbytes["rows"] == NUM_ROWS * half * 4
    gradients = torch.ones(NUM_ROWS, dim)
    rows = torch.arange(NUM_ROWS)
    learn_rows(store, rows.int() if backend == "numba" else rows, gradients)
    read = store.read(everything())
    torch.testing.assert_close(read[:, :half], vectors[:, :half] - 0.5)
    assert torch.count_nonzero(read[:, half:]) == 0


def test_a_vector_of_one_value_has_no_half() -> None:
    with pytest.raises(PlanError, match="half_width: got dimension 1, expected at least 2"):
        store_of("half_width", dim=1)
