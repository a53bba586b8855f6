"""`hash`: one shared row a feature, and `double-hash`: the product or sum of two, with no vocabulary needed."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.placing import Placing, split_rows
from trainer.evaluate.methods.row_tables import Rows, RowTables

__all__ = ["DoubleHash", "Hash", "build", "build_double"]


class Hash(RowTables):
    """The hashing trick.

    Knobs: `split` of the rows among fields (`proportional`, as published, or `equal`), and `row_format`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, brief: Brief, num_rows: int) -> None:
        split = split_rows(num_rows, brief.field_sizes, brief.word("split", "proportional"))
        places = Placing(brief.field_sizes, split, brief.seed)
        super().__init__(Rows(places.num_rows, brief, row_format=brief.row_format))
        self._places = places

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        vectors: Tensor = self.rows(self._places(words.numpy()))
        return vectors


class DoubleHash(RowTables):
    """Two tables, two hashes: a (1 + b), which is the published product started near a, or a + b.

    Knobs: `operation` (`multiply` or `add`), and those of `Hash`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, brief: Brief, num_rows: int) -> None:
        split = split_rows(num_rows // 2, brief.field_sizes, brief.word("split", "proportional"))
        places = [Placing(brief.field_sizes, split, 2 * brief.seed + which) for which in range(2)]
        super().__init__(
            *(Rows(each.num_rows, brief, row_format=brief.row_format, salt=salt) for salt, each in enumerate(places))
        )
        self._places, self._operation = places, brief.word("operation", "add")

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        ids = words.numpy()
        left, right = (table(places(ids)) for table, places in zip(self.tables, self._places, strict=True))
        vectors: Tensor = left + right if self._operation == "add" else left * (1 + right)
        return vectors


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
