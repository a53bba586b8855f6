"""`Rows`: a store whose rows the method numbers itself; `RowTables`: a method that consists of such stores.

A lookup is differentiable, so a method can combine rows (sums, products, projections) in plain torch. The gradient at
the looked-up rows is captured, summed by row, and applied once by `learn`.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trainer.embedding.captured import Capturing
from trainer.embedding.lookup import reads_of_rows
from trainer.embedding.stores.registry import DEFAULT_ROW_FORMAT, store_class
from trainer.embedding.stores.rows import RowSizes, RowStore
from trainer.embedding.stores.store import Sums
from trainer.evaluate.methods.method import Brief, Method

__all__ = ["Cache", "RowNumbers", "RowTables", "Rows", "Stepping", "scale_initial_values"]

RowNumbers = npt.NDArray[np.integer[Any]]


def scale_initial_values(store: RowStore, brief: Brief) -> None:
    """Scales initial values to +-sqrt(1 / D) for rows of any length, times the knob `first_values`."""
    factor = brief.number("first_values", 1.0) * (store.dim / brief.dim) ** 0.5
    if factor != 1.0:
        store.scale_initial_values(factor)


class Cache(Protocol):
    """A store of some rows of another one."""

    store: RowStore

    def slots(self, rows: RowNumbers) -> RowNumbers:
        """The numbers (N,) in `store` of rows (N,) that are in it."""


class Stepping(Protocol):
    """Decides which rows of a table learn."""

    def step(self, store: RowStore, sums: Sums) -> None:
        """At most one optimizer step on each of the distinct rows (P,) of a store."""


class Rows(Capturing[RowNumbers]):
    """`num_rows` rows, and one padding row, number `num_rows`, that stays zero.

    Args:
        num_rows: rows that learn.
        brief: optimizer, learning rate, seed and D.
        dim: values per row, if not D.
        row_format: the name of the store.
        salt: gives the tables of one method different initial values.

    Attributes:
        cache: a smaller store that holds the rows of the coming batches, and is read and trained in their stead; None
            for none.
        stepping: makes the optimizer steps; None to make all of them.
        recorder: the row numbers of lookups, which read nothing while it is there; None to read.
    """

    def __init__(
        self,
        num_rows: int,
        brief: Brief,
        *,
        dim: int | None = None,
        row_format: str = DEFAULT_ROW_FORMAT,
        salt: int = 0,
    ) -> None:
        super().__init__()
        self.padding, seed = num_rows, brief.seed * 1009 + salt
        sizes = RowSizes(num_rows=num_rows, dim=dim or brief.dim, optimizer=brief.optimizer, is_padded=True)
        self.store = store_class(row_format)(
            sizes, optimizer=brief.row_optimizer, initial=torch.Generator().manual_seed(seed), seed=seed
        )
        scale_initial_values(self.store, brief)
        self.cache: Cache | None = None
        self.stepping: Stepping | None = None
        self.recorder: list[RowNumbers] | None = None

    def _places(self, rows: RowNumbers) -> tuple[RowStore, RowNumbers]:
        """The store that holds rows (N,) now, and their numbers in it."""
        return (self.store, rows) if self.cache is None else (self.cache.store, self.cache.slots(rows))

    def gather(self, lookup: RowNumbers) -> Tensor:
        """The rows (N, D), without gradient."""
        out = torch.empty(len(lookup), self.store.dim)
        store, rows = self._places(lookup)
        store.gather(reads_of_rows(rows.astype(np.uint64)), out)
        return out

    def forward(self, rows: RowNumbers) -> Tensor:
        """The rows (..., D) of row numbers of any shape."""
        if self.recorder is not None:
            self.recorder.append(np.asarray(rows))
            return torch.zeros(*rows.shape, self.store.dim)
        return self.gather_learning(np.ascontiguousarray(rows).reshape(-1)).view(*rows.shape, -1)

    @torch.no_grad()
    def learn(self) -> list[npt.NDArray[np.float32]]:
        """One optimizer step on every row that was looked up; returns the gradients, last lookup first."""
        captured = self.take_captured()
        gradients = [gradient for _, gradient in captured]
        if captured:
            rows, gradient = np.concatenate([rows for rows, _ in captured]), torch.cat(gradients)  # (N,), (N, D)
            is_row = rows != self.padding
            if not is_row.all():
                rows, gradient = rows[is_row], gradient[torch.from_numpy(is_row)]
            store, rows = self._places(rows)
            sums = store.sum_gradients(reads_of_rows(rows.astype(np.uint64)), gradient).sums[0]
            if self.stepping is None:
                store.step(sums)
            else:
                self.stepping.step(store, sums)
        return [gradient.numpy() for gradient in gradients]

    def copy_from(self, rows: RowNumbers, vectors: Tensor) -> None:
        """Overwrites distinct rows (K,) with vectors (K, D), and resets their optimizer state."""
        addresses = torch.from_numpy(rows.astype(np.int64))[:, None]
        self.store.write(addresses, vectors, like=self.store.scales(addresses))


class RowTables(Method):
    """A method whose memory consists of rows and of extra bytes that it reports.

    Args:
        tables: the stores of rows, in the order of their optimizer steps.
    """

    def __init__(self, *tables: Rows) -> None:
        super().__init__()
        self.tables = nn.ModuleList(tables)

    @property
    def _rows(self) -> list[Rows]:
        return [table for table in self.tables if isinstance(table, Rows)]

    @property
    def all_rows(self) -> list[Rows]:
        """All tables, in the order of their optimizer steps."""
        return self._rows

    @property
    def rows(self) -> Rows:
        """The first table."""
        return self._rows[0]

    def learn(self) -> None:
        """As `Method.learn`."""
        for table in self._rows:
            table.learn()

    @property
    def extra_bytes(self) -> int:
        """Bytes that the method allocates besides its rows."""
        return 0

    @property
    def extra_paper_bytes(self) -> int:
        """The part of `extra_bytes` that the CAFE paper counts."""
        return 0

    @property
    def nbytes(self) -> int:
        """As `Method.nbytes`."""
        return sum(sum(table.store.nbytes.values()) for table in self._rows) + self.extra_bytes

    @property
    def paper_bytes(self) -> int:
        """As `Method.paper_bytes`."""
        return sum(table.store.nbytes["rows"] for table in self._rows) + self.extra_paper_bytes
