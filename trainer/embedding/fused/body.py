"""`FusedRows` and `FusedTiers`: the launches of the fused kernels, for one table of rows and for an adaptive embedding.

A step of an adaptive embedding is ten kernels and two sorts, and nothing waits for the device:

    route, gather              forward
    sort ids; sort quarters    rows of hot keys and of level 1; rows of level 2
    segments, finish           for each of the three tables: sum by row, train
    gates                      train
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from trainer.embedding.fused import row_access as access
from trainer.embedding.fused import segments
from trainer.embedding.fused.gathering import gather_kernel
from trainer.embedding.fused.gating import gate_kernel
from trainer.embedding.fused.routing import hash_kernel, id_bits, route_kernel
from trainer.embedding.gate import Gate
from trainer.embedding.layout import Layout
from trainer.embedding.router import Router
from trainer.embedding.stores.rows import RowStore
from trainer.embedding.stores.two_level import TwoLevelRows, shrink_factor

__all__ = ["FusedRows", "FusedTiers", "Pass", "Routed", "Tuning"]

_FORMATS = {
    "Float32Rows": access.FLOAT32,
    "BFloat16Rows": access.BFLOAT16,
    "Int8Rows": access.INT8,
    "Int4Rows": access.INT4,
    "HalfWidthRows": access.HALF_WIDTH,
}
_LEAST_COLUMNS = 16  # of a matrix product
_KEYS = 256  # of a program that routes or hashes them


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The shapes of the kernels for one D; found by `benchmarks/fused_kernels.py`.

    Attributes:
        columns: D or more, a power of two.
        block: lookups of a program of `gather_kernel`.
        tile: entries of a tile; `tiles` of them make a program.
        warps: of each program.
    """

    columns: int
    block: int
    tile: int
    tiles: int = 4
    warps: int = 4

    @classmethod
    def of(cls, dim: int) -> Tuning:
        """The shapes for rows of `dim` values."""
        columns = max(_LEAST_COLUMNS, triton.next_power_of_2(dim))
        return cls(
            columns=columns,
            block=max(8, min(128, 4096 // columns)),
            tile=max(16, min(64, 4096 // columns)),
            warps=4 if columns <= 128 else 8,
        )


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


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One backward pass, and what it fills: the scored keys, (N,) int64 with 0 between them, and their scores (N,)."""

    gradient: Tensor
    keys: Tensor
    routed: Routed
    batch_rows: int
    scored: Tensor
    scores: Tensor


def _words(tensor: Tensor) -> Tensor:
    """The tensor as a kernel takes it: bfloat16 as int16."""
    return tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor


class FusedRows:
    """The kernels that read and train one table of rows.

    Args:
        store: the table.
        kind: of `segments`, the kind of the table.
        level_1_rows: the number of rows of level 1, on which the ids depend.
    """

    def __init__(self, store: RowStore, kind: Any = segments.PLAIN, level_1_rows: int = 1) -> None:
        self.store, self.tuning, self.format = store, Tuning.of(store.dim), _FORMATS[type(store).__name__]
        self._kind, self._id_bits = kind, id_bits(level_1_rows)

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

    def learn(self, rows: Tensor, gradient: Tensor, accept: Tensor | None = None) -> None:
        """One optimizer step with the gradient (N, D) of rows (N,) int32, each row once; none unless `accept`."""
        ids, order = rows.sort(stable=True)
        self.train(ids, order, gradient, accept=accept)

    def train(
        self,
        ids: Tensor,
        order: Tensor,
        gradient: Tensor,
        of: Pass | None = None,
        keep: float = 1.0,
        accept: Tensor | None = None,
    ) -> Tensor:
        """One optimizer step on the rows of sorted entries.

        Args:
            ids: (M,), sorted.
            order: (M,) int64, the entries.
            gradient: (N, D).
            of: the pass; None for a table without gates and scores.
            keep: the factor of the rows before the step.
            accept: a bool tensor (); if it is false, nothing is trained and all slopes are 0. None for true.

        Returns:
            The slopes of the table's gates, (F, programs).
        """
        noise, tuning, store, count = self.store.next_noise(), self.tuning, self.store, len(ids)
        num_fields = len(of.routed.gates) if of else 0
        num_tiles = triton.cdiv(count, tuning.tile)
        num_programs = triton.cdiv(num_tiles, tuning.tiles)
        slopes = gradient.new_empty(num_fields, num_programs)
        if not count:
            return slopes
        parts = gradient.new_empty(num_tiles, 2, store.dim)
        score_parts = gradient.new_empty(num_tiles if of else 0, 2)
        keys, scored, scores = (of.keys, of.scored, of.scores) if of else (order, order, gradient)
        table = (*self.table, store.state, parts, score_parts, scored, scores)
        numbers = (
            keep,
            store.optimizer.learning_rate,
            store.optimizer.epsilon,
            int(noise.word.astype("int64")),
            noise.first_row,
        )
        constants = {
            "KIND": self._kind,
            "ID_BITS": self._id_bits,
            "DIM": store.dim,
            "COLUMNS": tuning.columns,
            "TILE": tuning.tile,
            "FORMAT": self.format,
            "IS_ADAGRAD": len(store.state) > 0,
            "num_warps": tuning.warps,
            "enable_fp_fusion": False,
        }
        fields, gates = (of.routed.fields, of.routed.gates) if of else (order, gradient)
        segments.segment_kernel[(num_programs,)](
            ids,
            order,
            gradient,
            keys,
            fields,
            gates,
            *table,
            slopes,
            accept,
            count,
            store.num_rows,
            float(of.batch_rows if of else 1),
            *numbers,
            TILES=tuning.tiles,
            NUM_FIELDS=num_fields,
            FIELD_SLOTS=triton.next_power_of_2(max(1, num_fields)),
            **constants,
        )
        segments.finish_kernel[(num_tiles,)](
            ids, order, keys, *table, accept, count, store.num_rows, *numbers, **constants
        )
        return slopes


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
        self.unique = FusedRows(unique, segments.UNIQUE, layout.level_1_rows)
        self.first = FusedRows(shared.level_1, segments.LEVEL_1, layout.level_1_rows)
        self.second = FusedRows(shared.level_2, segments.LEVEL_2, layout.level_1_rows)

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
        return _gather(routed.rows, self.unique, (self.first, self.second), routed)

    def learn(
        self, keys: Tensor, routed: Routed, gradient: Tensor, batch_rows: int, accept: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One optimizer step on rows and gates with the gradient (N, D) of keys (N,); none unless `accept`.

        Returns:
            Every distinct key once, 0 at all other positions (N,), and the scores (N,).
        """
        of = self.begin(keys, routed, gradient, batch_rows)
        (ids, order), (entries, quarter_order) = (one.sort(stable=True) for one in self.sorted_by(routed))
        first, unique = (table.train(ids, order, gradient, of, accept=accept) for table in (self.first, self.unique))
        second = gradient.new_empty(len(self._gate.values), 0)
        if self._layout.level_2_rows:
            second = self.second.train(entries, quarter_order, gradient, of, shrink_factor(batch_rows), accept)
        self._train_gates(unique, first, second)
        return of.scored, of.scores

    @staticmethod
    def begin(keys: Tensor, routed: Routed, gradient: Tensor, batch_rows: int) -> Pass:
        """The pass of a gradient (N, D) of keys (N,), not yet scored."""
        return Pass(
            gradient=gradient,
            keys=keys,
            routed=routed,
            batch_rows=batch_rows,
            scored=torch.empty_like(keys),
            scores=gradient.new_empty(len(keys)),
        )

    @staticmethod
    def sorted_by(routed: Routed) -> tuple[Tensor, Tensor]:
        """What the entries are sorted by: the ids (N,) of lookups, and the rows (4 N,) of quarters."""
        return routed.ids, routed.quarters.view(-1)

    def _train_gates(self, unique: Tensor, first: Tensor, second: Tensor) -> None:
        slopes = (unique, first, second)
        gate_kernel[(len(self._gate.values), 3)](
            self._gate.values,
            self._gate.state,
            *slopes,
            *(one.shape[1] for one in slopes),
            *self._gate.constants,
            BLOCK=1024,
            enable_fp_fusion=False,
        )


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
        num_warps=tuning.warps,
        enable_fp_fusion=False,
    )
    return out
