"""`TrainedRows`: a table of rows with the trainer's own kernels and optimizer, for methods that number rows themselves.

A lookup is differentiable, so what a method computes from rows (sums, products, projections) is plain torch; the
gradient at the looked-up rows is captured, summed a row, and applied once by `learn`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trainer.embedding.layout import Layout
from trainer.embedding.lookup import Lookup, Routes, distinct
from trainer.embedding.plans import EmbeddingPlan, RowFormatName
from trainer.embedding.stores.kernels import row_kernels
from trainer.embedding.stores.row_table import RowTable
from trainer.evaluate.methods.method import Brief

__all__ = ["Captured", "TrainedRows", "scale_first_values"]

RowNumbers = npt.NDArray[np.integer[Any]]
Captured = tuple[RowNumbers, npt.NDArray[np.float32]]


def scale_first_values(table: RowTable, brief: Brief) -> None:
    """The same first values for rows of any length, uniform within +-sqrt(1 / D); times the knob `first_values`."""
    factor = brief.number("first_values", 1.0) * (table.values.shape[1] / brief.dim) ** 0.5
    if factor != 1.0:
        numbers = table.scales if len(table.scales) else table.values  # a format with a scale keeps it apart
        numbers *= factor


class _Gather(torch.autograd.Function):
    """Reads rows, and hands the gradient at them to the table instead of to a parameter."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, table: TrainedRows, rows: RowNumbers) -> Tensor:  # noqa: ARG004
        """The rows (N, D); `anchor` only makes autograd ask for a gradient."""
        ctx.table, ctx.rows = table, rows
        return table.read(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        """Keeps the gradient (N, D)."""
        ctx.table.captured.append((ctx.rows, gradients[0].contiguous().numpy()))
        return None, None, None


class TrainedRows(nn.Module):
    """`num_rows` rows and one more, number `num_rows`, that is zero for ever.

    Args:
        num_rows: rows that learn.
        brief: optimizer, rate, seed and D.
        dim: numbers a row, if not D.
        row_format: what they are stored as.
        salt: makes tables of one method start with different values.

    Attributes:
        captured: rows and gradients that wait for `learn`.
    """

    def __init__(
        self,
        num_rows: int,
        brief: Brief,
        *,
        dim: int | None = None,
        row_format: RowFormatName = "float32",
        salt: int = 0,
    ) -> None:
        super().__init__()
        layout = Layout(num_fields=1, capacity_rows=0, level_1_per_field=num_rows, level_2_rows=0)
        plan = EmbeddingPlan(layout=layout, dim=dim or brief.dim, optimizer=brief.optimizer, row_format=row_format)
        self.padding = layout.padding_row
        self.table = RowTable(plan, optimizer=brief.row_optimizer, seed=brief.seed * 1009 + salt)
        scale_first_values(self.table, brief)
        self.captured: list[Captured] = []
        self._anchor = torch.zeros((), requires_grad=True)

    @property
    def nbytes(self) -> int:
        """Rows and optimizer state."""
        return sum(self.table.nbytes.values())

    @property
    def numbers_nbytes(self) -> int:
        """The rows alone."""
        return self.table.nbytes["rows"]

    def read(self, rows: RowNumbers) -> Tensor:
        """The rows (N, D), with no gradient."""
        unique, inverse = distinct(rows.astype(np.uint64))
        first = torch.from_numpy(unique.astype(np.int32))
        routes, places = Routes.of_rows(first), torch.from_numpy(inverse)
        return self.table.gather(Lookup(keys=first, inverse=places, routes=routes, batch_rows=1, version=0))

    def forward(self, rows: RowNumbers) -> Tensor:
        """The rows (..., D) of row numbers of any shape."""
        flat = np.ascontiguousarray(rows).reshape(-1)
        vectors: Tensor = _Gather.apply(self._anchor, self, flat) if torch.is_grad_enabled() else self.read(flat)
        return vectors.view(*rows.shape, -1)

    def learn(self) -> list[Captured]:
        """One optimizer step on every row that was looked up; returns what was captured, last lookup first."""
        captured, self.captured = self.captured, []
        if captured:
            rows = np.concatenate([part for part, _ in captured])
            gradient = np.concatenate([part for _, part in captured])  # (N, D)
            unique, inverse = distinct(rows.astype(np.uint64))
            sums = np.zeros((len(unique), gradient.shape[1]), np.float32)  # (P, D)
            row_kernels(gradient.shape[1]).merge_gradients(gradient, inverse, sums)
            sums[unique == np.uint64(self.padding)] = 0
            self.table.update(torch.from_numpy(unique.astype(np.int32)), torch.from_numpy(sums))
        return captured

    def copy_from(self, rows: RowNumbers, vectors: Tensor) -> None:
        """Overwrites distinct rows (K,) with vectors (K, D); their optimizer state starts afresh."""
        places = torch.from_numpy(rows.astype(np.int64))
        self.table.write(places, vectors, torch.zeros(len(rows)), like=places)
