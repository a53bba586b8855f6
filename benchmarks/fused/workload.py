"""Keys as skewed as a click log's, and embeddings whose hot set holds the most frequent of them.

A field's values have ranks, and rank r of n has the probability ln(1 + 1 / r) / ln(n + 1), which is Zipf's law.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from sketch.changes import Changes
from sketch.hashing import mix64_array
from streams.keys import FIELD_SHIFT
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.backends import Backend
from trainer.embedding.plans import EmbeddingPlan, plan_for_capacity

__all__ = ["NUM_FIELDS", "draw_keys", "make_embedding"]

# The distinct values of Criteo's 26 columns, rounded.
_FIRST = (1500, 580, 10**7, 2_200_000, 300, 24, 12500, 630, 3, 93000, 5700, 8_300_000, 3200)
_LAST = (27, 15000, 5_500_000, 10, 5600, 2200, 4, 7_000_000, 18, 15, 290_000, 105, 142_000)
_CARDINALITIES = np.array(_FIRST + _LAST, np.float64)
NUM_FIELDS = len(_CARDINALITIES)
_MASK = np.uint64(0xFFFFFFFF)


def _keys_of(fields: npt.NDArray[np.int64], ranks: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """The keys of fields and ranks of one shape."""
    numbers = fields.astype(np.uint64) + np.uint64(1) << FIELD_SHIFT
    return numbers | (mix64_array(numbers | ranks.astype(np.uint64)) & _MASK)


def draw_keys(batch_rows: int, seed: int) -> npt.NDArray[np.uint64]:
    """Keys (B, F)."""
    uniform = np.random.default_rng(seed).random((batch_rows, NUM_FIELDS))
    ranks = np.floor((_CARDINALITIES + 1) ** uniform)
    return _keys_of(np.broadcast_to(np.arange(NUM_FIELDS), ranks.shape), ranks)


def _most_frequent(count: int) -> npt.NDArray[np.uint64]:
    """The `count` most frequent keys of all fields."""
    fields = np.concatenate([np.full(int(min(size, count)), field) for field, size in enumerate(_CARDINALITIES)])
    ranks = np.concatenate([np.arange(1, min(size, count) + 1) for size in _CARDINALITIES])
    chance = np.log1p(1 / ranks) / np.log(_CARDINALITIES[fields] + 1)
    best = np.argpartition(-chance, count)[:count]
    return np.unique(_keys_of(fields[best], ranks[best]))


def make_embedding(
    capacity_rows: int, dim: int, device: torch.device, backend: Backend, row_format: str = "float32"
) -> AdaptiveEmbedding:
    """An embedding whose unique rows all have a key."""
    plan: EmbeddingPlan = plan_for_capacity(capacity_rows, dim, NUM_FIELDS, row_format=row_format)
    embedding = AdaptiveEmbedding(plan, seed=1, device=device, backend=backend)
    keys = _most_frequent(capacity_rows)
    embedding.migrate(Changes(keys, np.arange(len(keys), dtype=np.int32), np.ones(len(keys), np.float32)))
    return embedding
