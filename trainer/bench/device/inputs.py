"""Synthetic batches and hot sets of any size, made in bulk on the device.

The values of a field have ranks 1 to V. A lookup reads rank r with a probability of about 1 / (r ln V); the hot set has
the first ranks of every field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from streams.keys import FIELD_SHIFT
from trainer.embedding.adaptive import AdaptiveEmbedding

__all__ = ["Batch", "fill_hot_set", "make_batches"]

NUM_FIELDS, NUM_DENSE = 26, 13
RECORD_ROWS = 2048  # of a click record; the sizes of batches are multiples, or smaller
VALUES = 4_000_000  # V of each field, three times as many features as Criteo Kaggle has


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The rows of one step, on the device and, as a session decodes them, on the host.

    Attributes:
        keys: (B, F) int64.
        record_rows: the rows of each click record in it.
        host: dense (B, M) float32, keys (B, F) int64 and label (B,) float32.
    """

    keys: Tensor
    record_rows: tuple[int, ...]
    host: tuple[np.ndarray, np.ndarray, np.ndarray]


def _keys(batch_rows: int, device: torch.device, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(batch_rows, NUM_FIELDS, device=device, generator=generator, dtype=torch.float64)
    ranks = (uniform * math.log(VALUES)).exp().long()  # 1 to V - 1
    fields = torch.arange(1, NUM_FIELDS + 1, device=device) << int(FIELD_SHIFT)
    return fields | ranks


def make_batches(count: int, batch_rows: int, device: torch.device, seed: int) -> list[Batch]:
    """Different batches of the same sizes."""
    generator, random = torch.Generator(device).manual_seed(seed), np.random.default_rng(seed)
    batches = []
    for _ in range(count):
        keys = _keys(batch_rows, device, generator)
        dense = random.exponential(3.0, (batch_rows, NUM_DENSE)).astype(np.float32)
        label = (random.random(batch_rows) < 0.25).astype(np.float32)
        records = (RECORD_ROWS,) * (batch_rows // RECORD_ROWS) or (batch_rows,)
        batches.append(Batch(keys=keys, record_rows=records, host=(dense, keys.cpu().numpy(), label)))
    return batches


def fill_hot_set(embedding: AdaptiveEmbedding, seed: int) -> None:
    """Makes the first ranks of every field hot, in rows at random, as many as there are rows."""
    capacity = embedding.plan.capacity_rows
    numbers = np.arange(capacity, dtype=np.uint64)
    fields = numbers % np.uint64(NUM_FIELDS) + np.uint64(1)
    keys = fields << np.uint64(FIELD_SHIFT) | numbers // np.uint64(NUM_FIELDS) + np.uint64(1)
    rows = np.random.default_rng(seed).permutation(capacity).astype(np.int32)
    embedding.router.load(keys, rows)
