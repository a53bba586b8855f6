"""`qr`: quotient and remainder of the feature number select one row each (Shi et al., KDD'20)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from streams.generator.bisection import bisect
from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.row_hash import fields_of
from trainer.evaluate.methods.row_tables import Rows, RowTables

__all__ = ["QuotientRemainder", "build"]

Integers = npt.NDArray[np.int64]


class QuotientRemainder(RowTables):
    """remainder row (1 + quotient row), the published product with initial values near the remainder row, or the sum.

    Args:
        brief: with the knobs `operation` (`multiply` or `add`) and `row_format`.
        divisors: the divisor of each field (F,); no two features of a field share both rows.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"needs_vocabulary"})
    reads_lists: ClassVar[bool] = True

    def __init__(self, brief: Brief, divisors: Integers) -> None:
        sizes = np.asarray(brief.field_sizes)
        quotients = -(-sizes // divisors)
        super().__init__(
            Rows(int(divisors.sum()), brief, row_format=brief.row_format),
            Rows(int(quotients.sum()), brief, row_format=brief.row_format, salt=1),
        )
        self._divisors = divisors
        self._first_ids = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self._firsts = [np.concatenate([[0], np.cumsum(rows)[:-1]]) for rows in (divisors, quotients)]
        self._operation = brief.word("operation", "multiply")

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        ids, (first_remainder, first_quotient) = words.numpy(), self._firsts
        first_ids, divisors = self._first_ids, self._divisors  # (F,), or (N,) of the values of lists
        if ids.ndim == 1:
            fields = fields_of(ids, first_ids)
            first_ids, divisors = first_ids[fields], divisors[fields]
            first_remainder, first_quotient = first_remainder[fields], first_quotient[fields]
        quotient, remainder = np.divmod(ids - first_ids, divisors)  # (B, F) or (N,)
        row_numbers = (remainder + first_remainder, quotient + first_quotient)
        left, right = (table(rows) for table, rows in zip(self.tables, row_numbers, strict=True))
        vectors: Tensor = left + right if self._operation == "add" else left * (1 + right)
        return vectors


def build(brief: Brief) -> QuotientRemainder | Infeasible:
    """The largest divisors in proportion to the field sizes that fit; at least about 2 sqrt(n) rows per field."""
    sizes = np.asarray(brief.field_sizes)
    roots = np.ceil(np.sqrt(sizes)).astype(np.int64)
    row_bytes = brief.row_bytes(brief.row_format)
    room = brief.budget_bytes // row_bytes - 2

    def divisors(share: float) -> Integers:
        return np.maximum(roots, np.minimum(sizes, np.floor(share * sizes).astype(np.int64)))

    def num_rows(share: float) -> int:
        return int((divisors(share) - -sizes // divisors(share)).sum())

    if num_rows(0) > room:
        least = (num_rows(0) + 2) * row_bytes
        return Infeasible(f"2 sqrt(n) rows per field need {least} bytes, got {brief.budget_bytes}")
    share, _ = bisect(lambda share: num_rows(share) <= room, 0.0, 1.0, num_steps=40)
    return QuotientRemainder(brief, divisors(share))
