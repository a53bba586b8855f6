"""The baseline: a plain hash table, one shared row a key, as fast as this machine can make it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from trainer.embedding import gathers, kernels
from trainer.embedding.captured import CapturingEmbedding, Touched
from trainer.embedding.layout import LEVEL_1_SEED
from trainer.embedding.lookup import Lookup, Routes, distinct
from trainer.embedding.stores.kernels import row_kernels
from trainer.errors import KeyRangeError

__all__ = ["HashEmbedding"]


class HashEmbedding(CapturingEmbedding):
    """One level of hashed rows and nothing else: no router, no importance, the same rows and the same optimizer.

    Made from a `sizing.hash_plan`; arguments as `CapturingEmbedding`.
    """

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes allocated."""
        table = self.table.nbytes
        total = sum(table.values())
        return {**table, "router": 0, "gate": 0, "device": total, "total": total}

    def look_up(self, keys: Tensor, batch_rows: int) -> Lookup:
        """The rows of (N,) int64 keys; on a CPU each distinct row once."""
        layout = self.plan.layout
        if self.backend == "torch":
            first = gathers.level_rows(keys, int(LEVEL_1_SEED), layout.level_1_per_field, layout.num_fields)
            inverse = None
        else:
            hashed = np.empty(len(keys), np.uint64)
            words = keys.numpy().view(np.uint64)
            if strangers := kernels.hash_rows(words, layout.num_fields, layout.level_1_per_field, hashed):
                raise KeyRangeError(f"{strangers} keys whose field number is not 1 to {layout.num_fields}")
            unique, places = distinct(hashed)
            first, inverse = torch.from_numpy(unique.astype(np.int32)), torch.from_numpy(places)
        routes = Routes.of_rows(first)
        return Lookup(keys=keys, inverse=inverse, routes=routes, batch_rows=batch_rows, version=0)

    @torch.no_grad()
    def apply_gradients(self) -> None:
        """Updates the rows that backward passes touched since the last call, each once."""
        touched = self.take_touched()
        if touched is not None:
            self.table.update(touched.rows, touched.sums)

    def reduce(self, lookup: Lookup, gradient: Tensor, vectors: Tensor | None) -> Touched:  # noqa: ARG002
        """The sums of one pass's gradient (N, D) by row."""
        if lookup.inverse is None:
            rows, merged = gathers.merge_by_id(lookup.routes.row, gradient, self.plan.layout.padding_row)
            return Touched(rows=rows, sums=merged)
        sums = np.zeros((len(lookup.routes.row), gradient.shape[1]), np.float32)  # (P, D)
        row_kernels(gradient.shape[1]).merge_gradients(gradient.numpy(), lookup.inverse.numpy(), sums)
        return Touched(rows=lookup.routes.row, sums=torch.from_numpy(sums))

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold."""
        return self.table.tensors()

    def unsorted_tensors(self) -> dict[str, Tensor]:
        """Likewise."""
        return self.table.tensors()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` gave.

        Raises:
            CheckpointError: they are of another size.
        """
        self.table.load_tensors(tensors)
        self.zero_grad()
