"""`full`: a row for every feature of the run; the reference for all other methods."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.row_tables import Rows, RowTables

__all__ = ["Full", "build"]


class Full(RowTables):
    """The uncompressed table."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"needs_vocabulary", "uncompressed"})
    reads_lists: ClassVar[bool] = True

    def __init__(self, brief: Brief) -> None:
        super().__init__(Rows(brief.num_features, brief))

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        vectors: Tensor = self.rows(words.numpy())
        return vectors


def build(brief: Brief) -> Full | Infeasible:
    """The uncompressed table, if it fits the budget."""
    if brief.full_bytes > brief.budget_bytes:
        return Infeasible(f"{brief.num_features} rows need {brief.full_bytes} bytes, got {brief.budget_bytes}")
    return Full(brief)
