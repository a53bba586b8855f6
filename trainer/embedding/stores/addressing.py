"""From a key to rows by seeded hashes, so that nothing about shared rows is ever stored; numba and torch bodies."""

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
    """One row of those that the key's field owns.

    Attributes:
        num_fields: F.
        per_field: rows of each.
        seed: of the hash.
    """

    num_fields: int
    per_field: int
    seed: np.uint64

    def __call__(self, keys: Tensor, backend: Backend) -> Tensor:
        """The rows (U, 1) of int64 keys (U,). A field that is not there gives rows that mean nothing."""
        if backend == "torch":
            return gathers.level_rows(keys, int(self.seed), self.per_field, self.num_fields)[:, None]
        rows = np.empty((len(keys), 1), np.int32)
        kernels.hash_field(keys.numpy().view(np.uint64), self.seed, self.per_field, rows)
        return torch.from_numpy(rows)


@dataclass(frozen=True)
class PartHash:
    """Two rows of a range that is common to all fields: R rows make R^2 pairs, so that hardly two keys share both.

    Attributes:
        num_rows: R.
        seed: of the hash.
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
