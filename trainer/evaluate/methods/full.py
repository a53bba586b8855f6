"""`full`: a row for every feature that the run holds; what all others are measured against."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.row_tables import Rows, RowTables

__all__ = ["Full", "build"]


class Full(RowTables):
    """The uncompressed table."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"needs_vocabulary", "uncompressed"})

    def __init__(self, brief: Brief) -> None:
        super().__init__(Rows(brief.num_features, brief))

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        vectors: Tensor = self.rows(words.numpy())
        return vectors


def build(brief: Brief) -> Full | Infeasible:
    """The table, if the budget is that of the uncompressed one."""
    if brief.full_bytes > brief.budget_bytes:
        return Infeasible(f"{brief.num_features} rows need {brief.full_bytes} bytes, got {brief.budget_bytes}")
    return Full(brief)
