"""`FusedRows`: the launches of the fused kernels for one table of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor

from trainer.embedding.fused import row_access as access
from trainer.embedding.fused.gathering import gather_kernel
from trainer.embedding.fused.marking import mark_plain_kernel
from trainer.embedding.fused.routing import hash_kernel
from trainer.embedding.fused.shapes import KEYS, Entries, Routed, Tuning
from trainer.embedding.fused.training import finish_plain_kernel, train_plain_kernel
from trainer.embedding.layout import Layout
from trainer.embedding.stores.rows import RowStore

__all__ = ["FusedRows", "gather_rows"]

_FORMATS = {
    "Float32Rows": access.FLOAT32,
    "BFloat16Rows": access.BFLOAT16,
    "Int8Rows": access.INT8,
    "Int4Rows": access.INT4,
    "HalfWidthRows": access.HALF_WIDTH,
}


def _words(tensor: Tensor) -> Tensor:
    """The tensor as a kernel takes it: bfloat16 as int16."""
    return tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor


class FusedRows:
    """The kernels that read and train one table of rows.

    Args:
        store: the table.
    """

    def __init__(self, store: RowStore) -> None:
        self.store, self.tuning, self.format = store, Tuning.of(store.dim), _FORMATS[type(store).__name__]

    @property
    def table(self) -> tuple[Tensor, Tensor]:
        """Values and scales."""
        return _words(self.store.values), _words(self.store.row_scales)

    def hash(self, keys: Tensor, layout: Layout) -> Tensor:
        """The hashed row of each key of a hash table: (N,) int32."""
        rows = torch.empty(len(keys), dtype=torch.int32, device=keys.device)
        if len(keys):
            hash_kernel[(triton.cdiv(len(keys), KEYS),)](
                keys, rows, len(keys), layout.level_1_per_field, layout.num_fields, KEYS, enable_fp_fusion=False
            )
        return rows

    def gather(self, rows: Tensor) -> Tensor:
        """The vectors (N, D) of rows (N,) int32."""
        return gather_rows(rows, self, None, None)

    def learn(self, rows: Tensor, gradient: Tensor, accept: Tensor | None = None) -> None:
        """One optimizer step with the gradient (N, D) of rows (N,) int32, each row once.

        Nothing is trained if the bool tensor () `accept` is false.
        """
        self.train(self.sort(rows), gradient, accept)

    def sort(self, rows: Tensor) -> Entries:
        """The entries of rows (N,) int32, sorted."""
        ids, order = rows.sort(stable=True)
        span = self.tuning.for_lookups(len(rows)).span
        block = max(KEYS, span)
        entries = Entries.empty(len(rows), block, rows.device)
        if len(rows):
            mark_plain_kernel[(triton.cdiv(len(rows), block),)](
                ids, order, entries.arrays, len(rows), self.store.num_rows, SPAN=span, BLOCK=block
            )
        return entries

    def train(self, entries: Entries, gradient: Tensor, accept: Tensor | None = None) -> None:
        """One optimizer step with the gradient (N, D) of the lookups that entries name."""
        tuning, store, table = self.tuning.for_lookups(len(gradient)), self.store, self.begin_step()
        accept = gradient.new_ones((), dtype=torch.bool) if accept is None else accept
        num_spans = len(entries.rows) // tuning.span
        if not num_spans:
            return
        parts, epsilon = gradient.new_empty(num_spans, 2, store.dim), store.optimizer.epsilon
        constants = {
            "DIM": store.dim,
            "COLUMNS": tuning.columns,
            "FORMAT": self.format,
            "IS_ADAGRAD": len(store.state) > 0,
            **tuning.options,
        }
        train_plain_kernel[(num_spans,)](
            entries.arrays, gradient, table, parts, epsilon, accept, TILE=tuning.tile, TILES=tuning.tiles, **constants
        )
        finish_plain_kernel[(num_spans,)](
            entries.arrays, table, parts, num_spans, epsilon, accept, SPAN=tuning.span, **constants
        )

    def begin_step(self) -> tuple[Any, ...]:
        """Counts a step; returns the table as `train_rows` takes it."""
        store = self.store
        word = int(store.next_noise().word.astype(np.int64))
        return (*self.table, store.state, word, store.optimizer.learning_rate, store.sizes.first_row)


def gather_rows(
    rows: Tensor, unique: FusedRows, levels: tuple[FusedRows, FusedRows] | None, routed: Routed | None
) -> Tensor:
    """The vectors (N, D) of rows (N,) of one table, or of the three tables of an adaptive embedding."""
    store, tuning, count = unique.store, unique.tuning, len(rows)
    out = torch.empty(count, store.dim, device=rows.device)
    if not count:
        return out
    shared = [one.table for one in levels] if levels else [unique.table] * 2
    extra = (routed.fields, routed.quarters, routed.gates) if routed else (rows, rows, out)
    gather_kernel[(triton.cdiv(count, tuning.block),)](
        out,
        rows,
        *extra,
        *unique.table,
        *shared[0],
        *shared[1],
        count,
        DIM=store.dim,
        COLUMNS=tuning.columns,
        BLOCK=tuning.block,
        UNIQUE_FORMAT=unique.format,
        SHARED_FORMAT=levels[0].format if levels else unique.format,
        HAS_LEVEL_2=routed is not None and len(routed.quarters) > 0,
        IS_GATED=routed is not None,
        num_warps=tuning.gather_warps,
        enable_fp_fusion=False,
    )
    return out
