"""`FusedTiers`: the launches of the fused kernels for an adaptive embedding.

A step is five kernels and two sorts, and nothing waits for the device:

    route, gather     forward
    sort, sort        the lookups by id: rows of hot keys and of level 1; the quarters by row of level 2
    mark              where segments end
    train             sums gradients by row, trains the rows within a span
    finish            trains the other rows, and the gates
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from trainer.embedding.fused.marking import mark_kernel
from trainer.embedding.fused.routing import id_bits, route_kernel
from trainer.embedding.fused.shapes import AHEAD, KEYS, Entries, Routed, Sorted
from trainer.embedding.fused.tables import FusedRows, gather_rows
from trainer.embedding.fused.training import finish_kernel, train_kernel
from trainer.embedding.gate import Gate
from trainer.embedding.layout import Layout
from trainer.embedding.router import Router
from trainer.embedding.stores.rows import RowStore
from trainer.embedding.stores.two_level import TwoLevelRows, shrink_factor

__all__ = ["FusedTiers"]


@cache
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


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
            route_kernel[(triton.cdiv(count, KEYS),)](
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
                BLOCK=KEYS,
                enable_fp_fusion=False,
            )
        if count < AHEAD or device.type != "cuda" or not torch.is_grad_enabled():
            return routed
        return replace(routed, by_row=self._sort_beside(routed))

    def _sort_beside(self, routed: Routed) -> Sorted:
        """Sorts on a stream of its own, beside what the model does until `learn`; the order needs no gradient."""
        here, beside = torch.cuda.current_stream(), _second_stream(routed.ids.device)
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            by_row = self.sort(routed)
        for tensor in by_row.tensors:
            tensor.record_stream(here)
        for tensor in (routed.ids, routed.quarters, routed.fields):
            tensor.record_stream(beside)
        return by_row

    def gather(self, routed: Routed) -> Tensor:
        """The vectors (N, D), times their gates."""
        return gather_rows(routed.rows, self._unique, (self._first, self._second), routed)

    def learn(
        self, keys: Tensor, routed: Routed, gradient: Tensor, batch_rows: int, accept: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One optimizer step on rows and gates with the gradient (N, D) of keys (N,); none unless `accept`.

        Returns:
            Every distinct key once, 0 at all other positions (N,), and the scores (N,).
        """
        if routed.by_row is None:
            return self.train(keys, routed, self.sort(routed), gradient, batch_rows, accept)
        torch.cuda.current_stream().wait_stream(_second_stream(keys.device))
        return self.train(keys, routed, routed.by_row, gradient, batch_rows, accept)

    def sort(self, routed: Routed) -> Sorted:
        """Sorts the lookups by id, and the quarters by row."""
        (ids, order), (quarters, quarter_order) = (
            one.sort(stable=True) for one in (routed.ids, routed.quarters.view(-1))
        )
        count, span = len(ids), self.tuning.for_lookups(len(ids)).span
        block = max(KEYS, span)
        entries, quarter_entries = (Entries.empty(len(one), block, ids.device) for one in (ids, quarters))
        num_blocks = triton.cdiv(count, block)
        if count:
            mark_kernel[(num_blocks + triton.cdiv(len(quarters), block),)](
                *(ids, order, quarters, quarter_order, routed.fields, entries.arrays, quarter_entries.arrays),
                *(count, num_blocks, self._layout.level_2_rows),
                ID_BITS=id_bits(self._layout.level_1_rows),
                SPAN=span,
                BLOCK=block,
                enable_fp_fusion=False,
            )
        return Sorted(ids=ids, entries=entries, quarters=quarter_entries)

    def train(
        self,
        keys: Tensor,
        routed: Routed,
        by_row: Sorted,
        gradient: Tensor,
        batch_rows: int,
        accept: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `learn`, with the entries sorted."""
        scored, scores = torch.empty_like(keys), gradient.new_empty(len(keys))
        accept = keys.new_ones((), dtype=torch.bool) if accept is None else accept
        tables = self._begin_step()
        if not len(keys):
            return scored, scores
        entries, quarters, tuning = by_row.entries, by_row.quarters, self.tuning.for_lookups(len(keys))
        span = tuning.span
        num_spans, num_quarter_spans = len(entries.rows) // span, len(quarters.rows) // span
        sizes, num_fields, dim = (num_spans, num_quarter_spans), self._layout.num_fields, gradient.shape[1]
        parts = tuple(gradient.new_empty(size, 2, dim) for size in sizes)
        slopes = tuple(gradient.new_empty(num_fields, size) for size in (num_spans, *sizes))
        scoring = (keys, gradient.new_empty(num_spans, 2), scored, scores, float(batch_rows))
        work = (*tables, parts, slopes, scoring, *sizes, len(keys), shrink_factor(batch_rows), self._epsilon, accept)
        constants = self._constants
        train_kernel[(num_spans + num_quarter_spans,)](
            *(entries.arrays, quarters.arrays, gradient, routed.gates, *work),
            NUM_FIELDS=num_fields,
            FIELD_SLOTS=triton.next_power_of_2(num_fields),
            TILE=tuning.tile,
            TILES=tuning.tiles,
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
