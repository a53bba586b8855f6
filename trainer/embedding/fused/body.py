"""`FusedRows` and `FusedTiers`: the launches of the fused kernels, for one table of rows and for an adaptive embedding.

A step of an adaptive embedding is five kernels and two sorts, and nothing waits for the device:

    route, gather     forward
    sort, sort        the lookups by id: rows of hot keys and of level 1; the quarters by row of level 2
    mark              where segments end
    train             sums gradients by row, trains the rows within a span
    finish            trains the other rows, and the gates
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor

from trainer.embedding.fused import row_access as access
from trainer.embedding.fused.gathering import gather_kernel
from trainer.embedding.fused.marking import mark_kernel, mark_plain_kernel
from trainer.embedding.fused.routing import hash_kernel, id_bits, route_kernel
from trainer.embedding.fused.training import finish_kernel, finish_plain_kernel, train_kernel, train_plain_kernel
from trainer.embedding.gate import Gate
from trainer.embedding.layout import Layout
from trainer.embedding.router import Router
from trainer.embedding.stores.rows import RowStore
from trainer.embedding.stores.two_level import TwoLevelRows, shrink_factor

__all__ = ["Entries", "FusedRows", "FusedTiers", "Routed", "Sorted", "Tuning"]

_FORMATS = {
    "Float32Rows": access.FLOAT32,
    "BFloat16Rows": access.BFLOAT16,
    "Int8Rows": access.INT8,
    "Int4Rows": access.INT4,
    "HalfWidthRows": access.HALF_WIDTH,
}
_LEAST_COLUMNS = 4
_KEYS = 256  # of a program that routes or hashes them


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The shapes of the kernels for one D; `benchmarks/fused` times them.

    Attributes:
        columns: D or more, a power of two.
        block: lookups of a program of `gather_kernel`.
        tile: entries that a program adds at once; `tiles` of them make its span.
        warps: of a program that adds, `gather_warps` of one that gathers.
    """

    columns: int
    block: int
    tile: int
    tiles: int
    warps: int
    gather_warps: int = 4

    @classmethod
    def of(cls, dim: int) -> Tuning:
        """The shapes for rows of `dim` values."""
        columns = max(_LEAST_COLUMNS, triton.next_power_of_2(dim))
        return cls(
            columns=columns,
            block=max(8, min(128, 4096 // columns)),
            tile=max(4, min(32, 512 // columns)),
            tiles=16 if columns >= 128 else 4,
            warps=max(1, columns // 128),
        )

    @property
    def span(self) -> int:
        """Entries of a program that adds."""
        return self.tile * self.tiles

    @property
    def options(self) -> dict[str, Any]:
        """Of the launch of a kernel that trains."""
        return {"num_warps": self.warps, "enable_fp_fusion": False}


@dataclass(frozen=True, kw_only=True)
class Routed:
    """Where the lookups of one pass lead; `fused.routing` has the shapes.

    Attributes:
        rows: (N,) int32.
        fields: (N,) uint8.
        quarters: (N, 4) int32, (0, 4) without level 2.
        ids: (N,) int64.
        gates: (F, 3) float32, a copy of the gates at the lookup.
    """

    rows: Tensor
    fields: Tensor
    quarters: Tensor
    ids: Tensor
    gates: Tensor


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
            hash_kernel[(triton.cdiv(len(keys), _KEYS),)](
                keys, rows, len(keys), layout.level_1_per_field, layout.num_fields, _KEYS, enable_fp_fusion=False
            )
        return rows

    def gather(self, rows: Tensor) -> Tensor:
        """The vectors (N, D) of rows (N,) int32."""
        return _gather(rows, self, None, None)

    def learn(self, rows: Tensor, gradient: Tensor) -> None:
        """One optimizer step with the gradient (N, D) of rows (N,) int32, each row once."""
        self.train(self.sort(rows), gradient)

    def sort(self, rows: Tensor) -> Entries:
        """The entries of rows (N,) int32, sorted."""
        ids, order = rows.sort(stable=True)
        block = max(_KEYS, self.tuning.span)
        entries = Entries.empty(len(rows), block, rows.device)
        if len(rows):
            mark_plain_kernel[(triton.cdiv(len(rows), block),)](
                ids, order, entries.arrays, len(rows), self.store.num_rows, SPAN=self.tuning.span, BLOCK=block
            )
        return entries

    def train(self, entries: Entries, gradient: Tensor) -> None:
        """One optimizer step with the gradient (N, D) of the lookups that entries name."""
        tuning, store, table = self.tuning, self.store, self.begin_step()
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
            entries.arrays, gradient, table, parts, epsilon, TILE=tuning.tile, TILES=tuning.tiles, **constants
        )
        finish_plain_kernel[(num_spans,)](
            entries.arrays, table, parts, num_spans, epsilon, SPAN=tuning.span, **constants
        )

    def begin_step(self) -> tuple[Any, ...]:
        """Counts a step; returns the table as `train_rows` takes it."""
        store = self.store
        word = int(store.next_noise().word.astype(np.int64))
        return (*self.table, store.state, word, store.optimizer.learning_rate, store.sizes.first_row)


@dataclass(frozen=True, kw_only=True)
class Entries:
    """Sorted entries; `fused.marking` has the shapes."""

    rows: Tensor
    entries: Tensor
    marks: Tensor
    fields: Tensor

    @classmethod
    def empty(cls, count: int, block: int, device: torch.device) -> Entries:
        """Entries to be filled, rounded up to whole blocks."""
        size = triton.cdiv(count, block) * block
        return cls(
            rows=torch.empty(size, dtype=torch.int32, device=device),
            entries=torch.empty(size, dtype=torch.int32, device=device),
            marks=torch.empty(size, dtype=torch.uint8, device=device),
            fields=torch.empty(size, dtype=torch.uint8, device=device),
        )

    @property
    def arrays(self) -> tuple[Tensor, ...]:
        """The four arrays as a kernel takes them."""
        return self.rows, self.entries, self.marks, self.fields


@dataclass(frozen=True, kw_only=True)
class Sorted:
    """The entries of a pass of an adaptive embedding.

    Attributes:
        ids: (N,) int64, sorted.
        entries: of the ids.
        quarters: of the quarters; empty without level 2.
    """

    ids: Tensor
    entries: Entries
    quarters: Entries


class FusedTiers:
    """The kernels of an adaptive embedding.

    Args:
        layout: the numbers of rows.
        router: the routes of hot keys.
        unique: the rows of hot keys; `shared` those of all other keys.
        gate: the gates.
    """

    def __init__(self, layout: Layout, router: Router, unique: RowStore, shared: TwoLevelRows, gate: Gate) -> None:
        self._layout, self._router, self._gate = layout, router, gate
        self._unique, self._first, self._second = (FusedRows(one) for one in (unique, shared.level_1, shared.level_2))
        self.tuning, self.dim = self._unique.tuning, unique.dim

    def route(self, keys: Tensor) -> Routed:
        """Routes keys (N,) int64."""
        count, layout, device = len(keys), self._layout, keys.device
        routed = Routed(
            rows=torch.empty(count, dtype=torch.int32, device=device),
            fields=torch.empty(count, dtype=torch.uint8, device=device),
            quarters=torch.empty(count if layout.level_2_rows else 0, 4, dtype=torch.int32, device=device),
            ids=torch.empty(count, dtype=torch.int64, device=device),
            gates=self._gate.values.clone(),
        )
        if count:
            slots, values = self._router.copies
            route_kernel[(triton.cdiv(count, _KEYS),)](
                keys,
                slots,
                values,
                routed.rows,
                routed.fields,
                routed.quarters,
                routed.ids,
                count,
                len(slots),
                layout.level_1_per_field,
                layout.level_2_rows,
                NUM_FIELDS=layout.num_fields,
                HAS_LEVEL_2=layout.level_2_rows > 0,
                ID_BITS=id_bits(layout.level_1_rows),
                BLOCK=_KEYS,
                enable_fp_fusion=False,
            )
        return routed

    def gather(self, routed: Routed) -> Tensor:
        """The vectors (N, D), times their gates."""
        return _gather(routed.rows, self._unique, (self._first, self._second), routed)

    def learn(self, keys: Tensor, routed: Routed, gradient: Tensor, batch_rows: int) -> tuple[Tensor, Tensor]:
        """One optimizer step on rows and gates with the gradient (N, D) of keys (N,).

        Returns:
            Every distinct key once, 0 at all other positions (N,), and the scores (N,).
        """
        return self.train(keys, routed, self.sort(routed), gradient, batch_rows)

    def sort(self, routed: Routed) -> Sorted:
        """Sorts the lookups by id, and the quarters by row."""
        (ids, order), (quarters, quarter_order) = (
            one.sort(stable=True) for one in (routed.ids, routed.quarters.view(-1))
        )
        count, block = len(ids), max(_KEYS, self.tuning.span)
        entries, quarter_entries = (Entries.empty(len(one), block, ids.device) for one in (ids, quarters))
        num_blocks = triton.cdiv(count, block)
        if count:
            mark_kernel[(num_blocks + triton.cdiv(len(quarters), block),)](
                *(ids, order, quarters, quarter_order, routed.fields, entries.arrays, quarter_entries.arrays),
                *(count, num_blocks, self._layout.level_2_rows),
                ID_BITS=id_bits(self._layout.level_1_rows),
                SPAN=self.tuning.span,
                BLOCK=block,
                enable_fp_fusion=False,
            )
        return Sorted(ids=ids, entries=entries, quarters=quarter_entries)

    def train(
        self, keys: Tensor, routed: Routed, by_row: Sorted, gradient: Tensor, batch_rows: int
    ) -> tuple[Tensor, Tensor]:
        """As `learn`, with the entries sorted."""
        scored, scores = torch.empty_like(keys), gradient.new_empty(len(keys))
        tables = self._begin_step()
        if not len(keys):
            return scored, scores
        entries, quarters, span = by_row.entries, by_row.quarters, self.tuning.span
        num_spans, num_quarter_spans = len(entries.rows) // span, len(quarters.rows) // span
        sizes, num_fields, dim = (num_spans, num_quarter_spans), self._layout.num_fields, gradient.shape[1]
        parts = tuple(gradient.new_empty(size, 2, dim) for size in sizes)
        slopes = tuple(gradient.new_empty(num_fields, size) for size in (num_spans, *sizes))
        scoring = (keys, gradient.new_empty(num_spans, 2), scored, scores, float(batch_rows))
        work = (*tables, parts, slopes, scoring, *sizes, len(keys), shrink_factor(batch_rows), self._epsilon)
        constants = self._constants
        train_kernel[(num_spans + num_quarter_spans,)](
            *(entries.arrays, quarters.arrays, gradient, routed.gates, *work),
            NUM_FIELDS=num_fields,
            FIELD_SLOTS=triton.next_power_of_2(num_fields),
            TILE=self.tuning.tile,
            TILES=self.tuning.tiles,
            **constants,
        )
        gate = (self._gate.values, self._gate.state, *self._gate.constants)
        finish_kernel[(num_spans + num_quarter_spans + 3 * num_fields,)](
            *(by_row.ids, entries.arrays, quarters.arrays, gate, *work), SPAN=span, **constants
        )
        return scored, scores

    def _begin_step(self) -> tuple[tuple[Any, ...], ...]:
        """Counts a step of each table that has rows; returns the three tables."""
        unique, first = self._unique.begin_step(), self._first.begin_step()
        return unique, first, self._second.begin_step() if self._layout.level_2_rows else first

    @property
    def _epsilon(self) -> float:
        return self._unique.store.optimizer.epsilon

    @property
    def _constants(self) -> dict[str, Any]:
        return {
            "HAS_LEVEL_2": self._layout.level_2_rows > 0,
            "DIM": self._unique.store.dim,
            "COLUMNS": self.tuning.columns,
            "UNIQUE_FORMAT": self._unique.format,
            "SHARED_FORMAT": self._first.format,
            "IS_ADAGRAD": len(self._first.store.state) > 0,
            **self.tuning.options,
        }


def _gather(
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
