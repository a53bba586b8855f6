"""`SkipStale`: leaves out the updates of rows at rest, which have stopped to change (Slipstream, arXiv 2404.04270).

    calm       an update changes a row by less than T times the row's norm
    at rest    after 3 calm updates in a row; then 7 updates are left out, and the next one is made as a test
    awake      as soon as a test is not calm

A row at rest is still read, and its records still train everything else. Guarantees: with T = 0 the same weights, bit
for bit; at least one of 8 updates of a row is made, so a row at rest follows the stream again when it drifts.

Kept of the paper: a row is stale if its relative change is under a threshold. Not kept: whole records are left out
there, which would bias the labels that remain; snapshots, whose change is that of a period; the search for T on a
sample. A write of a row is what is saved (and its gradient, between ranks); the read is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from trainer.embedding.stores.rows import RowStore
from trainer.embedding.stores.store import Sums
from trainer.evaluate.methods.row_tables import RowTables
from trainer.evaluate.schedules.schedule import Schedule, full_row_bytes

__all__ = ["RestingRows", "SkipStale"]

_CALM_UPDATES = 3
_LEFT_OUT = 7  # between two test updates
_FLOAT_BYTES = 4


class RestingRows:
    """The optimizer steps of one table.

    Args:
        num_rows: rows of the table.
        below: T.

    Attributes:
        num_updates: updates of the plain run: distinct rows of each step, summed.
        num_left_out: those that were left out.
    """

    def __init__(self, num_rows: int, below: float) -> None:
        self._below = below
        self._calm, self._left_out = np.zeros(num_rows, np.uint8), np.zeros(num_rows, np.uint8)
        self.num_updates = self.num_left_out = 0

    @property
    def nbytes(self) -> int:
        """Bytes beside the table, which the budget of a method does not include."""
        return self._calm.nbytes + self._left_out.nbytes

    @property
    def num_at_rest(self) -> int:
        """Rows at rest now."""
        return int(np.count_nonzero(self._calm == _CALM_UPDATES))

    def step(self, store: RowStore, sums: Sums) -> None:
        """As `Stepping.step`."""
        is_due = (self._calm[sums.rows] < _CALM_UPDATES) | (self._left_out[sums.rows] == _LEFT_OUT)  # (P,)
        rows = sums.rows[is_due]
        self.num_updates += len(is_due)
        self.num_left_out += len(is_due) - len(rows)
        self._left_out[sums.rows[~is_due]] += 1
        addresses = torch.from_numpy(rows.astype(np.int64))[:, None]
        before = store.read(addresses)  # (K, D)
        store.step(replace(sums, rows=rows, gradients=sums.gradients[is_due]))
        change = (store.read(addresses) - before).norm(dim=1)
        is_calm = (change < self._below * before.norm(dim=1)).numpy()
        self._calm[rows] = np.where(is_calm, np.minimum(self._calm[rows] + 1, _CALM_UPDATES), 0)
        self._left_out[rows] = 0


class SkipStale(Schedule):
    """Steps the tables of a method.

    Args:
        method: its rows do not move.
        batches: the rows of each batch.
        below: T.
    """

    def __init__(self, method: RowTables, batches: Sequence[slice], below: float) -> None:
        super().__init__(batches)
        self._tables, self._rest = method.all_rows, list[RestingRows]()
        for table in self._tables:
            table.stepping = rest = RestingRows(len(table.store.values), below)
            self._rest.append(rest)

    def counts(self) -> dict[str, Any]:
        """Updates, rows at rest, bytes of rows in both directions and of gradients, with and without what is left out.

        A row is fetched for each step that reads it, and written back if it is updated.
        """
        pairs = list(zip(self._tables, self._rest, strict=True))
        return {
            "updates": sum(rest.num_updates - rest.num_left_out for _, rest in pairs),
            "updates_plain": sum(rest.num_updates for _, rest in pairs),
            "rows_at_rest": sum(rest.num_at_rest for _, rest in pairs),
            "bytes_moved": sum(
                full_row_bytes(table) * (2 * rest.num_updates - rest.num_left_out) for table, rest in pairs
            ),
            "bytes_moved_plain": sum(full_row_bytes(table) * 2 * rest.num_updates for table, rest in pairs),
            "gradient_bytes": sum(
                _FLOAT_BYTES * table.store.dim * (rest.num_updates - rest.num_left_out) for table, rest in pairs
            ),
            "gradient_bytes_plain": sum(_FLOAT_BYTES * table.store.dim * rest.num_updates for table, rest in pairs),
            "extra_bytes": sum(rest.nbytes for _, rest in pairs),
        }
