"""`TierMoves`: copies the vectors of keys that get another row, from tier to tier: `new.write(row, old.read(...))`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.embedding import gathers
from trainer.embedding.gate import Gate
from trainer.embedding.migration import Migration
from trainer.embedding.stores.rows import RowStore
from trainer.embedding.stores.store import Reads
from trainer.embedding.stores.two_level import TwoLevelRows
from trainer.embedding.transfers import to_device

__all__ = ["TierMoves"]


class TierMoves:
    """The moves between two stores.

    Args:
        unique: the rows of hot keys.
        shared: the rows of all other keys.
        gate: the gates of both.
        is_numba: whether the stores run in the numba body.
    """

    def __init__(self, unique: RowStore, shared: TwoLevelRows, gate: Gate, *, is_numba: bool) -> None:
        self._unique, self._shared, self._gate, self._is_numba = unique, shared, gate, is_numba

    def move(self, migration: Migration) -> None:
        """Copies the vectors of keys that get a row into that row."""
        takes, was_hot = migration.takes_row, migration.before >= 0
        moved, promoted = takes & was_hot, takes & ~was_hot
        before = self._on_device(migration.before[moved].astype(np.int64))[:, None]
        # Everything is read before anything is written.
        vectors, state, like = self._unique.read(before), self._unique.state_of(before), self._unique.scales(before)
        self._promote(migration.keys[promoted], migration.after[promoted])
        after = self._on_device(migration.after[moved].astype(np.int64))[:, None]
        self._unique.write(after, vectors, state=state, like=like)

    def _promote(self, words: npt.NDArray[np.uint64], rows: npt.NDArray[np.int32]) -> None:
        """Copies the shared vectors of keys (K,) into unique rows (K,)."""
        keys = self._on_device(words.view(np.int64))
        fields = gathers.field_indices(keys, len(self._gate.values))
        vectors = self._read_shared(keys, fields) / self._gate.unique[fields]
        self._unique.write(self._on_device(rows.astype(np.int64))[:, None], vectors)

    def _read_shared(self, keys: Tensor, fields: Tensor) -> Tensor:
        """The vectors (K, D) that keys (K,) int64 have in the shared rows, times their gates."""
        addresses = self._shared.address(keys)
        if self._is_numba:
            own = fields.numpy().astype(np.uint8)
            reads = Reads(addresses=addresses, fields=own, gates=self._gate.arrays()[1])
        else:
            reads = Reads(addresses=addresses, fields=fields, gates=self._gate.shared)
        out = torch.zeros(len(keys), self._shared.dim, device=keys.device)
        self._shared.gather(reads, out)
        return out

    def _on_device(self, words: npt.NDArray[np.int64]) -> Tensor:
        return to_device(words, self._gate.unique.device)
