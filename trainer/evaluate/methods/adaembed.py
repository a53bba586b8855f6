"""`adaembed`: the most important features get rows, which are reassigned periodically (Lai et al., OSDI'23)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.row_tables import Rows, RowTables

__all__ = ["AdaEmbed", "build"]

_ENTRY_BYTES = 8  # an importance and a row number per feature
_CHECK_BATCHES = 64
_TOLERATED = 0.05


class AdaEmbed(RowTables):
    """The most important features have rows; all others read a zero vector, and a new row starts at zero.

    Importance is the decayed sum of gradient norms, each divided by the mean of its field in the batch. Rows are
    reassigned every 64 batches if more than 5 % of the most important features have none.

    Args:
        brief: with the knobs `decay`, applied at every check, and `row_format`.
        num_rows: rows to assign.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"adaptive", "needs_vocabulary"})

    def __init__(self, brief: Brief, num_rows: int) -> None:
        super().__init__(Rows(num_rows, brief, row_format=brief.row_format))
        self._row_of = np.full(brief.num_features, num_rows, np.int32)  # the zero row
        self._importance = np.zeros(brief.num_features, np.float32)
        self._num_rows, self._num_fields = num_rows, len(brief.field_sizes)
        self._free = list(range(num_rows - 1, -1, -1))
        self._decay = brief.number("decay", 0.98)
        self._ids = np.empty(0, np.int64)
        self._num_batches = 0
        self.num_moves = 0

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        ids = words.numpy()
        if torch.is_grad_enabled():
            self._ids = ids.reshape(-1)
        vectors: Tensor = self.rows(self._row_of[ids])
        return vectors

    def learn(self) -> None:
        """As `Method.learn`."""
        for gradient in self.rows.learn():
            norms = np.linalg.norm(gradient, axis=1).reshape(-1, self._num_fields)  # (B, F)
            norms /= np.maximum(norms.mean(axis=0), 1e-30)
            np.add.at(self._importance, self._ids, norms.reshape(-1))
        self._num_batches += 1
        # Free rows are assigned soon; rows that would have to change owner wait for the periodic check.
        if self._num_batches % _CHECK_BATCHES == 0 or (self._free and self._num_batches % 8 == 0):
            self._rebuild()
            self._importance *= self._decay

    def _rebuild(self) -> None:
        """Assigns the rows to the most important features."""
        top = np.argpartition(-self._importance, min(self._num_rows, len(self._importance) - 1))[: self._num_rows]
        top = np.sort(top[self._importance[top] > 0])
        has_none = top[self._row_of[top] == self._num_rows]
        if len(has_none) <= _TOLERATED * len(top):
            return
        losing = self._row_of != self._num_rows
        losing[top] = False
        self._free.extend(self._row_of[losing].tolist())
        self._row_of[losing] = self._num_rows
        fresh = np.array([self._free.pop() for _ in has_none], np.int32)
        self._row_of[has_none] = fresh
        self.num_moves += len(has_none)
        self.rows.copy_from(fresh, torch.zeros(len(fresh), self.rows.store.dim))

    @property
    def extra_bytes(self) -> int:
        """As `RowTables.extra_bytes`; the list of free rows is not counted, since free rows could hold it."""
        return self._importance.nbytes + self._row_of.nbytes

    @property
    def extra_paper_bytes(self) -> int:
        """As `RowTables.extra_paper_bytes`."""
        return self.extra_bytes

    def describe(self) -> dict[str, float]:
        """As `Method.describe`."""
        return {"hot": self._num_rows - len(self._free), "promotions": self.num_moves}


def build(brief: Brief) -> AdaEmbed | Infeasible:
    """The most rows that fit beside two words per feature."""
    fixed = brief.num_features * _ENTRY_BYTES
    num_rows = (brief.budget_bytes - fixed) // brief.row_bytes(brief.row_format) - 1
    if num_rows < 1:
        return Infeasible(f"importances of {brief.num_features} features need {fixed} bytes, got {brief.budget_bytes}")
    return AdaEmbed(brief, min(num_rows, brief.num_features))
