"""Seeded hashes that map keys to rows, so that shared rows need no index; each has a numba and a torch body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.embedding import gathers, kernels
from trainer.embedding.backends import Backend

__all__ = ["FieldHash", "PartHash"]


@dataclass(frozen=True)
class FieldHash:
    """Maps each key to one of the rows that its field owns.

    Attributes:
        num_fields: F.
        per_field: rows of each field.
        seed: seed of the hash.
    """

    num_fields: int
    per_field: int
    seed: np.uint64

    def __call__(self, keys: Tensor, backend: Backend) -> Tensor:
        """The rows (U, 1) of int64 keys (U,); undefined for a key whose field number is not 1 to F."""
        if backend == "torch":
            return gathers.level_rows(keys, int(self.seed), self.per_field, self.num_fields)[:, None]
        rows = np.empty((len(keys), 1), np.int32)
        kernels.hash_field(keys.numpy().view(np.uint64), self.seed, self.per_field, rows)
        return torch.from_numpy(rows)


@dataclass(frozen=True)
class PartHash:
    """Maps each key to two of R rows that all fields share: there are R^2 pairs, so two keys rarely share both rows.

    Attributes:
        num_rows: R.
        seed: seed of the hash.
    """

    num_rows: int
    seed: np.uint64

    def __call__(self, keys: Tensor, backend: Backend) -> Tensor:
        """The rows (U, 2) of int64 keys (U,)."""
        if backend == "torch":
            return gathers.part_rows(keys, int(self.seed), self.num_rows)
        rows = np.empty((len(keys), 2), np.int32)
        kernels.hash_parts(keys.numpy().view(np.uint64), self.seed, self.num_rows, rows)
        return torch.from_numpy(rows)
