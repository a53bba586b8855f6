"""The keys that the rows of a log look up: one for each field, more where a field has several values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streams.keys import Keys
from streams.records import MoreValues

__all__ = ["Lookups"]


@dataclass(frozen=True, kw_only=True)
class Lookups:
    """The L lookups of N rows, row by row; a value that a row has twice is two lookups.

    Attributes:
        keys: (L,) uint64 feature keys.
        rows: (L,) int64, the row of each from 0, ascending.
        num_rows: N.
    """

    keys: Keys
    rows: npt.NDArray[np.int64]
    num_rows: int

    @classmethod
    def of(cls, keys: Keys, more: MoreValues | None = None) -> Lookups:
        """Those of first values (N, F) and of the further ones. O(N F), with further values O(L log L)."""
        num_rows, num_fields = keys.shape
        words, rows = keys.reshape(-1), np.repeat(np.arange(num_rows), num_fields)
        if more is not None:
            words, rows = np.concatenate([words, more.keys]), np.concatenate([rows, more.rows])
            order = np.argsort(rows, kind="stable")
            words, rows = words[order], rows[order]
        return cls(keys=words, rows=rows, num_rows=num_rows)

    def between(self, first: int, last: int) -> Lookups:
        """Those of the rows from `first` to before `last`, or to the end if there are fewer."""
        last = min(last, self.num_rows)
        start, end = np.searchsorted(self.rows, [first, last])
        return Lookups(keys=self.keys[start:end], rows=self.rows[start:end] - first, num_rows=last - first)

    def records(self, record_rows: int) -> list[Keys]:
        """The keys of each click record of so many rows; the last one may be shorter."""
        starts = range(0, self.num_rows, record_rows)
        return [self.between(start, start + record_rows).keys for start in starts]
