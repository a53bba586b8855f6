"""`offline`: an oracle that counts the whole run in advance and gives the most frequent features unique rows."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from trainer.embedding.plans import map_bytes
from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.row_hash import RowHash, split_rows
from trainer.evaluate.methods.row_tables import Rows, RowTables

__all__ = ["Offline", "build"]


class Offline(RowTables):
    """Private rows for the features with the largest true counts, which no online method knows; hashed rows for others.

    Args:
        brief: with the knobs `unique_share` (of the rows), `split` (of the hashed rows among fields) and `row_format`.
        num_hot: private rows.
        num_shared: hashed rows.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"needs_vocabulary", "sees_future"})
    reads_lists: ClassVar[bool] = True

    def __init__(self, brief: Brief, num_hot: int, num_shared: int) -> None:
        assert brief.counts is not None  # noqa: S101  the harness provides them to an oracle
        counts = brief.counts()
        top = np.argsort(-counts, kind="stable")[:num_hot]
        split = split_rows(num_shared, brief.field_sizes, brief.word("split", "equal"))
        row_hash = RowHash(brief.field_sizes, split, brief.seed, first_row=num_hot)
        super().__init__(Rows(num_hot + row_hash.num_rows, brief, row_format=brief.row_format))
        self._row_hash, self._map_bytes = row_hash, map_bytes(num_hot)
        self._row_of = np.full(len(counts), -1, np.int64)  # the budget counts a serving map instead
        self._row_of[top] = np.arange(len(top))

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        ids = words.numpy()
        private = self._row_of[ids]
        vectors: Tensor = self.rows(np.where(private >= 0, private, self._row_hash(ids)))
        return vectors

    @property
    def extra_bytes(self) -> int:
        """As `RowTables.extra_bytes`: the map of the private rows."""
        return self._map_bytes


def build(brief: Brief) -> Offline | Infeasible:
    """Private and shared rows in the proportion `unique_share`, with the map of the private ones counted."""
    share, fewest = brief.number("unique_share", 0.8), len(brief.field_sizes)
    row_bytes = brief.row_bytes(brief.row_format)
    room = brief.budget_bytes - row_bytes - map_bytes(0)
    if room < fewest * row_bytes:
        return Infeasible(f"one row per field needs {fewest * row_bytes} bytes, got {brief.budget_bytes}")
    per_hot = row_bytes + map_bytes(1 << 20) / (1 << 20)
    num_shared = max(fewest, int(room * (1 - share) / row_bytes))
    num_hot = max(0, int((room - num_shared * row_bytes) / per_hot) - 4)
    return Offline(brief, min(num_hot, brief.num_features), num_shared)
