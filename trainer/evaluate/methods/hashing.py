"""`hash`: one shared row per feature; `double-hash`: the product or sum of two. Neither needs a vocabulary."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.row_hash import RowHash, split_rows
from trainer.evaluate.methods.row_tables import Rows, RowTables

__all__ = ["DoubleHash", "Hash", "build", "build_double"]


class Hash(RowTables):
    """The hashing trick.

    Knobs: `split` of the rows among fields (`proportional`, as published, or `equal`), and `row_format`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()
    reads_lists: ClassVar[bool] = True

    def __init__(self, brief: Brief, num_rows: int) -> None:
        split = split_rows(num_rows, brief.field_sizes, brief.word("split", "proportional"))
        row_hash = RowHash(brief.field_sizes, split, brief.seed)
        super().__init__(Rows(row_hash.num_rows, brief, row_format=brief.row_format))
        self._row_hash = row_hash

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        vectors: Tensor = self.rows(self._row_hash(words.numpy()))
        return vectors


class DoubleHash(RowTables):
    """Two tables with two hashes: a (1 + b), the published product with initial values near a, or a + b.

    Knobs: `operation` (`multiply` or `add`), and those of `Hash`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()
    reads_lists: ClassVar[bool] = True

    def __init__(self, brief: Brief, num_rows: int) -> None:
        split = split_rows(num_rows // 2, brief.field_sizes, brief.word("split", "proportional"))
        hashes = [RowHash(brief.field_sizes, split, 2 * brief.seed + which) for which in range(2)]
        super().__init__(
            *(Rows(each.num_rows, brief, row_format=brief.row_format, salt=salt) for salt, each in enumerate(hashes))
        )
        self._hashes, self._operation = hashes, brief.word("operation", "add")

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        ids = words.numpy()
        left, right = (table(row_hash(ids)) for table, row_hash in zip(self.tables, self._hashes, strict=True))
        vectors: Tensor = left + right if self._operation == "add" else left * (1 + right)
        return vectors


def build(brief: Brief) -> Hash | Infeasible:
    """The most rows that fit, at least one per field."""
    row_bytes, fewest = brief.row_bytes(brief.row_format), len(brief.field_sizes)
    num_rows = brief.budget_bytes // row_bytes - 1
    if num_rows < fewest:
        return Infeasible(f"one row per field needs {(fewest + 1) * row_bytes} bytes, got {brief.budget_bytes}")
    return Hash(brief, num_rows)


def build_double(brief: Brief) -> DoubleHash | Infeasible:
    """The most rows that fit, at least two per field."""
    row_bytes, fewest = brief.row_bytes(brief.row_format), 2 * len(brief.field_sizes)
    num_rows = brief.budget_bytes // row_bytes - 2
    if num_rows < fewest:
        return Infeasible(f"two rows per field need {(fewest + 2) * row_bytes} bytes, got {brief.budget_bytes}")
    return DoubleHash(brief, num_rows)
