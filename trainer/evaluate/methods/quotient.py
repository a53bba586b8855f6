"""`qr`: quotient and remainder of the feature's number pick a row each (Shi et al., KDD'20)."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trainer.evaluate.methods.method import Brief, Infeasible, Method
from trainer.evaluate.methods.trained_rows import TrainedRows

__all__ = ["QuotientRemainder", "build"]

Rows = npt.NDArray[np.int64]


class QuotientRemainder(Method):
    """remainder row (1 + quotient row), which is the published product started near one of them, or their sum.

    Args:
        brief: with the knobs `operation` (`multiply` or `add`) and `row_format`.
        remainders: the divisor of each field (F,); no two features of a field share both rows.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"needs_vocabulary"})

    def __init__(self, brief: Brief, remainders: Rows) -> None:
        super().__init__()
        sizes = np.asarray(brief.field_sizes)
        quotients = -(-sizes // remainders)
        self._divisors = remainders
        self._first_ids = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self._firsts = [np.concatenate([[0], np.cumsum(rows)[:-1]]) for rows in (remainders, quotients)]
        self._operation = brief.word("operation", "multiply")
        self.remainders = TrainedRows(int(remainders.sum()), brief, row_format=brief.row_format)
        self.quotients = TrainedRows(int(quotients.sum()), brief, row_format=brief.row_format, salt=1)

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        quotient, remainder = np.divmod(words.numpy() - self._first_ids, self._divisors)  # (B, F)
        left: Tensor = self.remainders(remainder + self._firsts[0])
        right: Tensor = self.quotients(quotient + self._firsts[1])
        return left + right if self._operation == "add" else left * (1 + right)

    def learn(self) -> None:
        """As `Method.learn`."""
        self.remainders.learn()
        self.quotients.learn()

    @property
    def nbytes(self) -> int:
        """As `Method.nbytes`."""
        return self.remainders.nbytes + self.quotients.nbytes

    @property
    def paper_bytes(self) -> int:
        """As `Method.paper_bytes`."""
        return self.remainders.numbers_nbytes + self.quotients.numbers_nbytes


def build(brief: Brief) -> QuotientRemainder | Infeasible:
    """The largest divisors, in proportion to the fields' sizes, that fit; about 2 sqrt(n) rows a field at least."""
    sizes = np.asarray(brief.field_sizes)
    roots = np.ceil(np.sqrt(sizes)).astype(np.int64)
    row_bytes = brief.row_bytes(brief.row_format)
    room = brief.budget_bytes // row_bytes - 2

    def divisors(share: float) -> Rows:
        return np.maximum(roots, np.minimum(sizes, np.floor(share * sizes).astype(np.int64)))

    def num_rows(share: float) -> int:
        return int((divisors(share) - -sizes // divisors(share)).sum())

    if num_rows(0) > room:
        least = (num_rows(0) + 2) * row_bytes
        return Infeasible(f"2 sqrt(n) rows a field need {least} bytes, got {brief.budget_bytes}")
    low, high = 0.0, 1.0
    while high - low > 1e-12 and not math.isclose(low, high):
        middle = (low + high) / 2
        low, high = (middle, high) if num_rows(middle) <= room else (low, middle)
    return QuotientRemainder(brief, divisors(low))
