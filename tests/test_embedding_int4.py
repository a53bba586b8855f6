"""Four bits per value: how values are packed, and the largest error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_embedding_formats import everything, random_vectors, store_of

from trainer.embedding.stores.int4 import Int4Rows


@pytest.mark.parametrize("dim", [1, 4, 5])
def test_two_values_share_a_byte_and_a_row_has_one_scale(dim: int) -> None:
    store = store_of("int4", dim)
    vectors = random_vectors(dim)
    store.write(everything(), vectors)
    assert store.values.shape == (len(vectors), (dim + 1) // 2)
    assert store.nbytes["rows"] == len(vectors) * Int4Rows.vector_bytes(dim)
    bits = np.concatenate([store.values.numpy() & 15, store.values.numpy() >> 4], axis=1)[:, :dim]
    decoded = (bits.astype(np.float32) - 8) * store.row_scales.float().numpy()[:, None]
    np.testing.assert_array_equal(store.read(everything()).numpy(), decoded)
    assert np.abs(bits.astype(int) - 8).max() <= 7
    assert (torch.from_numpy(decoded) - vectors).abs().max() <= store.row_scales.float().max() * 0.5001
