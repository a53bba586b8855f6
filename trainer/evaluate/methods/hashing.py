"""`hash`: one shared row a feature, and `double-hash`: the product or sum of two, with no vocabulary needed."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from trainer.evaluate.methods.method import Brief, Infeasible, Method
from trainer.evaluate.methods.placing import Placing, split_rows
from trainer.evaluate.methods.trained_rows import TrainedRows

__all__ = ["DoubleHash", "Hash", "build", "build_double"]


class Hash(Method):
    """The hashing trick.

    Knobs: `split` of the rows among fields (`proportional`, as published, or `equal`), and `row_format`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, brief: Brief, num_rows: int) -> None:
        super().__init__()
        split = split_rows(num_rows, brief.field_sizes, brief.word("split", "proportional"))
        self._places = Placing(brief.field_sizes, split, brief.seed)
        self.rows = TrainedRows(self._places.num_rows, brief, row_format=brief.row_format)

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        vectors: Tensor = self.rows(self._places(words.numpy()))
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


class DoubleHash(Method):
    """Two tables, two hashes: a (1 + b), which is the published product started near a, or a + b.

    Knobs: `operation` (`multiply` or `add`), and those of `Hash`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, brief: Brief, num_rows: int) -> None:
        super().__init__()
        split = split_rows(num_rows // 2, brief.field_sizes, brief.word("split", "proportional"))
        self._places = [Placing(brief.field_sizes, split, 2 * brief.seed + which) for which in range(2)]
        self._operation = brief.word("operation", "add")
        left, right = (places.num_rows for places in self._places)
        self.left = TrainedRows(left, brief, row_format=brief.row_format)
        self.right = TrainedRows(right, brief, row_format=brief.row_format, salt=1)

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        ids = words.numpy()
        left: Tensor = self.left(self._places[0](ids))
        right: Tensor = self.right(self._places[1](ids))
        return left + right if self._operation == "add" else left * (1 + right)

    def learn(self) -> None:
        """As `Method.learn`."""
        self.left.learn()
        self.right.learn()

    @property
    def nbytes(self) -> int:
        """As `Method.nbytes`."""
        return self.left.nbytes + self.right.nbytes

    @property
    def paper_bytes(self) -> int:
        """As `Method.paper_bytes`."""
        return self.left.numbers_nbytes + self.right.numbers_nbytes


def build(brief: Brief) -> Hash | Infeasible:
    """As many rows as fit, at least one a field."""
    row_bytes, fewest = brief.row_bytes(brief.row_format), len(brief.field_sizes)
    num_rows = brief.budget_bytes // row_bytes - 1
    if num_rows < fewest:
        return Infeasible(f"a row a field needs {(fewest + 1) * row_bytes} bytes, got {brief.budget_bytes}")
    return Hash(brief, num_rows)


def build_double(brief: Brief) -> DoubleHash | Infeasible:
    """As many rows as fit, at least two a field."""
    row_bytes, fewest = brief.row_bytes(brief.row_format), 2 * len(brief.field_sizes)
    num_rows = brief.budget_bytes // row_bytes - 2
    if num_rows < fewest:
        return Infeasible(f"two rows a field need {(fewest + 2) * row_bytes} bytes, got {brief.budget_bytes}")
    return DoubleHash(brief, num_rows)
