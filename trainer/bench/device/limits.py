"""The fewest bytes that the embedding part of a step moves through the memory of the device.

    forward     reads the keys, and each row (or quarter of a row) that the batch names once; writes the vectors
    backward    reads the gradient at the vectors; reads and writes each row and its optimizer state once

A row that several lookups of a batch name counts once, as if a cache kept it; forward and backward are apart, with the
dense part between them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.embedding import gathers
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.layout import LEVEL_1_SEED
from trainer.embedding.stores.rows import RowStore

__all__ = ["adaptive_bytes", "hash_bytes"]

_KEY_BYTES, _FLOAT_BYTES, _SLOT_BYTES = 8, 4, 12


def _distinct(rows: Tensor) -> int:
    return len(torch.unique(rows))


def _trained_bytes(store: RowStore, num_rows: int) -> int:
    """Bytes read and written to train rows of a store."""
    return 2 * num_rows * store.row_bytes(store.dim, store.sizes.optimizer)


def _vectors_bytes(num_lookups: int, dim: int) -> int:
    return num_lookups * (_KEY_BYTES + 2 * dim * _FLOAT_BYTES)


def hash_bytes(embedding: HashEmbedding, keys: Tensor) -> int:
    """Bytes of a plain hash table of our rows for keys (B, F)."""
    layout, store = embedding.plan.layout, embedding.rows
    rows = gathers.level_rows(keys.view(-1), int(LEVEL_1_SEED), layout.level_1_per_field, layout.num_fields)
    count = _distinct(rows)
    read = count * store.vector_bytes(store.dim)
    return _vectors_bytes(keys.numel(), store.dim) + read + _trained_bytes(store, count)


def adaptive_bytes(embedding: AdaptiveEmbedding, keys: Tensor) -> dict[str, Any]:
    """Bytes of the adaptive embedding for keys (B, F), and their lookups, distinct keys and hot lookups."""
    words = keys.view(-1)
    rows = embedding.router.route(words)
    is_hot = rows >= 0
    addresses = embedding.shared.address(words[~is_hot])
    unique, level_1, level_2 = embedding.unique, embedding.shared.level_1, embedding.shared.level_2
    total, num_keys = _vectors_bytes(len(words), embedding.plan.dim), _distinct(words)
    total += num_keys * _SLOT_BYTES
    for store, named in ((unique, rows[is_hot]), (level_1, addresses[:, 0])):
        count = _distinct(named)
        total += count * store.vector_bytes(store.dim) + _trained_bytes(store, count)
    if addresses.shape[1] > 1:
        parts = addresses.shape[1] - 1
        quarters = addresses[:, 1:] * parts + torch.arange(parts, device=addresses.device)
        total += _distinct(quarters) * level_2.vector_bytes(level_2.dim) // parts
        total += _trained_bytes(level_2, _distinct(addresses[:, 1:]))
    return {"bytes": total, "lookups": len(words), "distinct": num_keys, "hot": int(is_hot.sum())}
