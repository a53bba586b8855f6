"""Columns that hold lists of values: the first value of each row, and the further ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from streams.keys import MISSING, field_key
from streams.records import MoreValues, more_of_rows

__all__ = ["MAX_VALUES", "FurtherValues", "flatten_lists"]

MAX_VALUES = 1024  # of a field in a row, so that a row of any number of fields fits in a record (2 MiB)
Longs = npt.NDArray[np.int64]


class FurtherValues:
    """Collects the further values of the rows of a block, field by field.

    Args:
        num_rows: B.
    """

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._rows: list[Longs] = []
        self._keys: list[npt.NDArray[np.uint64]] = []

    def take(self, index: int, rows: Longs, payloads: Longs) -> Longs:
        """Collects the further values of a field; returns the payload (B,) of the first, missing where a row has none.

        Missing values beside others are left out.

        Args:
            index: the index of the field.
            rows: (V,) the row of each value, ascending.
            payloads: (V,) the payload of each value.
        """
        is_present = payloads != MISSING
        rows, payloads = rows[is_present], payloads[is_present]
        is_first = np.ones(len(rows), np.bool_)
        is_first[1:] = rows[1:] != rows[:-1]
        first = np.full(self._num_rows, MISSING, np.int64)
        first[rows[is_first]] = payloads[is_first]
        self._rows.append(rows[~is_first])
        self._keys.append(payloads[~is_first].view(np.uint64) | field_key(index + 1))
        return first

    def collected(self) -> MoreValues | None:
        """All further values of the rows; None if there are none."""
        if not self._rows:
            return None
        return more_of_rows(np.concatenate(self._rows), np.concatenate(self._keys), self._num_rows)


def flatten_lists(column: pa.Array) -> tuple[pa.Array, Longs]:
    """The values of a list column, and (B,) the number of each row's; a null list has none."""
    counts = pc.fill_null(pc.list_value_length(column), 0).cast(pa.int64())
    return column.flatten(), counts.to_numpy(zero_copy_only=False)
