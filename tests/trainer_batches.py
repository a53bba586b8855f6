"""Click batches for the trainer's tests, with a few fields and learnable labels."""

from __future__ import annotations

import numpy as np

from streams.keys import FIELD_SHIFT, Field
from streams.records import ClickBatch

NUM_FIELDS = 4


def click_batch(rows: int, seed: int, *, num_dense: int = 2) -> ClickBatch:
    """Rows whose label depends on the parity of two fields' values."""
    rng = np.random.default_rng(seed)
    payloads = (rng.zipf(1.3, (rows, NUM_FIELDS)) % 500).astype(np.uint64)
    score = np.where(payloads[:, 0] % np.uint64(2) == 0, 1.5, -1.5) + np.where(payloads[:, 1] % np.uint64(2), 1.0, -1.0)
    return ClickBatch(
        label=(rng.random(rows) < 1 / (1 + np.exp(-score))).astype(np.int8),
        dense=rng.random((rows, num_dense), np.float32) * 10,
        keys=(np.arange(1, NUM_FIELDS + 1, dtype=np.uint64) << FIELD_SHIFT) | payloads,
        event_time_ms=np.arange(rows, dtype=np.int64),
        fields=tuple(Field(f"f{number}") for number in range(NUM_FIELDS)),
        dense_names=tuple(f"d{number}" for number in range(num_dense)),
    )
