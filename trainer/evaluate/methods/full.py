"""`full`: a row for every feature that the run holds; what all others are measured against."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from trainer.evaluate.methods.method import Brief, Infeasible, Method
from trainer.evaluate.methods.trained_rows import TrainedRows

__all__ = ["Full", "build"]


class Full(Method):
    """The uncompressed table."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"needs_vocabulary", "uncompressed"})

    def __init__(self, brief: Brief) -> None:
        super().__init__()
        self.rows = TrainedRows(brief.num_features, brief)

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        vectors: Tensor = self.rows(words.numpy())
        return vectors

    def learn(self) -> None:
        """As `Method.learn`."""
        self.rows.learn()

    @property
    def nbytes(self) -> int:
        """As `Method.nbytes`."""
        return self.rows.nbytes

    @property
    def paper_bytes(self) -> int:
        """As `Method.paper_bytes`."""
        return self.rows.numbers_nbytes


def build(brief: Brief) -> Full | Infeasible:
    """The table, if the budget is that of the uncompressed one."""
    if brief.full_bytes > brief.budget_bytes:
        return Infeasible(f"{brief.num_features} rows need {brief.full_bytes} bytes, got {brief.budget_bytes}")
    return Full(brief)
