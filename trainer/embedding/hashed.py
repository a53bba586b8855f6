"""The baseline: a plain hash table with one shared row per key, on the same fast kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from trainer.embedding import gathers, kernels
from trainer.embedding.backends import Backend, backend_of_tables
from trainer.embedding.captured import Touched
from trainer.embedding.key_embedding import CapturingEmbedding
from trainer.embedding.layout import LEVEL_1_SEED
from trainer.embedding.lookup import Lookup, reads_of_rows
from trainer.embedding.plans import EmbeddingPlan
from trainer.embedding.stores.registry import store_class
from trainer.embedding.stores.rows import RowOptimizer, RowSizes
from trainer.embedding.stores.store import Reads
from trainer.errors import KeyRangeError

if TYPE_CHECKING:
    from trainer.embedding.fused.tables import FusedRows

__all__ = ["HashEmbedding"]

_ROWS = "rows"


class HashEmbedding(CapturingEmbedding):
    """One store of hashed rows with the same format and optimizer, without router and importance.

    Args:
        plan: a `plans.hash_plan`.
        optimizer: the hyperparameters of the rows' optimizer.
        seed: the seed of the initial values.
        device: the device of the rows.
        backend: `numba`, `torch` or `triton`; None for the default of the device.
    """

    def __init__(
        self,
        plan: EmbeddingPlan,
        *,
        optimizer: RowOptimizer | None = None,
        seed: int = 0,
        device: torch.device | None = None,
        backend: Backend | None = None,
    ) -> None:
        super().__init__(plan, device=device, backend=backend)
        sizes = RowSizes(num_rows=plan.layout.level_1_rows, dim=plan.dim, optimizer=plan.optimizer)
        self.rows = store_class(plan.row_format)(
            sizes,
            optimizer=optimizer or RowOptimizer(),
            initial=torch.Generator().manual_seed(seed),
            seed=seed,
            device=self.device,
            backend=backend_of_tables(self.backend),
        )
        self._fused = self._fuse() if self.backend == "triton" else None

    def _fuse(self) -> FusedRows:
        from trainer.embedding.fused.tables import FusedRows  # noqa: PLC0415  needs Triton

        return FusedRows(self.rows)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes allocated."""
        rows = self.rows.nbytes
        total = sum(rows.values())
        return {**rows, "router": 0, "gate": 0, "device": total, "total": total}

    def look_up(self, keys: Tensor, batch_rows: int) -> Lookup:
        """Hashes (N,) int64 keys to rows; on a CPU each distinct row is read once."""
        layout = self.plan.layout
        if self._fused:
            rows = self._fused.hash(keys, layout)
            return Lookup(keys=keys, reads={}, num_lookups=len(keys), batch_rows=batch_rows, routed=rows)
        if self.backend == "torch":
            rows = gathers.level_rows(keys, int(LEVEL_1_SEED), layout.level_1_per_field, layout.num_fields)
            reads = Reads(addresses=rows[:, None], gates=None)
        else:
            hashed = np.empty(len(keys), np.uint64)
            words, per_field = keys.numpy().view(np.uint64), layout.level_1_per_field
            if unknown := kernels.hash_rows(words, LEVEL_1_SEED, layout.num_fields, per_field, hashed):
                raise KeyRangeError(f"{unknown} keys whose field number is not 1 to {layout.num_fields}")
            reads = reads_of_rows(hashed)
        return Lookup(keys=keys, reads={_ROWS: reads}, num_lookups=len(keys), batch_rows=batch_rows)

    def gather(self, lookup: Lookup) -> Tensor:
        """The vectors (N, D)."""
        if self._fused:
            return self._fused.gather(lookup.routed)
        blank = torch.empty if self.backend == "numba" else torch.zeros
        out = blank(lookup.num_lookups, self.plan.dim, device=self.device)
        self.rows.gather(lookup.reads[_ROWS], out)
        return out

    def apply_gradients(self) -> None:
        """Updates the rows that backward passes touched since the last call, each once."""
        self.learn()

    @torch.no_grad()
    def learn(self, accept: Tensor | None = None) -> None:
        """As `AdaptiveEmbedding.learn`, without scores."""
        single = self.take_single_pass() if self._fused else None
        if self._fused and single:
            lookup, gradient = single
            self._fused.learn(lookup.routed, gradient, accept)
            return
        touched = self.take_touched()
        if touched is not None and accept is not None:
            touched = touched.if_accepted(accept)
        if touched is not None:
            self.rows.learn(touched.sums[_ROWS], touched.batch_rows)

    def reduce(self, lookup: Lookup, gradient: Tensor) -> Touched:
        """Sums one pass's gradient (N, D) by row."""
        reads = lookup.reads or {_ROWS: Reads(addresses=lookup.routed[:, None].long(), gates=None)}
        reduced = self.rows.sum_gradients(reads[_ROWS], gradient)
        return Touched(sums={_ROWS: reduced.sums}, batch_rows=lookup.batch_rows)

    def tensors(self) -> dict[str, Tensor]:
        """The complete state, for a checkpoint."""
        return self.rows.tensors()

    def unsorted_tensors(self) -> dict[str, Tensor]:
        """As `tensors`: there are no hot keys to sort."""
        return self.rows.tensors()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the state from the result of `tensors`.

        Raises:
            CheckpointError: a tensor has another size.
        """
        self.rows.load_tensors(tensors)
        self.zero_grad()
