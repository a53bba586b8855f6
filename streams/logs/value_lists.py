"""Columns that hold lists of values: the first value of each row, the further ones, and the weights of both."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from streams.keys import MISSING, field_key
from streams.records import MoreValues, Weights, more_of_rows

__all__ = ["MAX_VALUES", "WEIGHTS_EXPECTED", "FurtherValues", "flatten_lists", "match_weights"]

MAX_VALUES = 1024  # of a field in a row, so that a row of any number of fields fits in a record (2 MiB)
WEIGHTS_EXPECTED = "finite numbers, one for each value"
_MAX_FLOAT32 = np.finfo(np.float32).max
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class FurtherValues:
    """Collects the further values of the rows of a block, and the weights of values, field by field.

    Args:
        num_rows: B.
        num_fields: F.
    """

    def __init__(self, num_rows: int, num_fields: int) -> None:
        self._num_rows, self._num_fields = num_rows, num_fields
        self._rows: list[Longs] = []
        self._keys: list[npt.NDArray[np.uint64]] = []
        self._weights: list[Weights] = []
        self._key_weights: Weights | None = None

    def take(self, index: int, rows: Longs, payloads: Longs, weights: Weights | None = None) -> Longs:
        """Collects the further values of a field; returns the payload (B,) of the first, missing where a row has none.

        Missing values beside others are left out, and a missing value has the weight 1.

        Args:
            index: the index of the field.
            rows: (V,) the row of each value, ascending.
            payloads: (V,) the payload of each value.
            weights: (V,) the weight of each value; None for 1.
        """
        is_present = payloads != MISSING
        rows, payloads = rows[is_present], payloads[is_present]
        is_first = np.ones(len(rows), np.bool_)
        is_first[1:] = rows[1:] != rows[:-1]
        first = np.full(self._num_rows, MISSING, np.int64)
        first[rows[is_first]] = payloads[is_first]
        self._rows.append(rows[~is_first])
        self._keys.append(payloads[~is_first].view(np.uint64) | field_key(index + 1))
        if weights is None:
            self._weights.append(np.ones(len(self._keys[-1]), np.float32))
        else:
            weights = weights[is_present]
            self._weights.append(weights[~is_first])
            if self._key_weights is None:
                self._key_weights = np.ones((self._num_rows, self._num_fields), np.float32)
            self._key_weights[rows[is_first], index] = weights[is_first]
        return first

    def collected(self) -> MoreValues | None:
        """All further values of the rows; None if there are none."""
        if not self._rows:
            return None
        weights = None if self._key_weights is None else np.concatenate(self._weights)
        return more_of_rows(np.concatenate(self._rows), np.concatenate(self._keys), self._num_rows, weights)

    @property
    def key_weights(self) -> Weights | None:
        """(B, F) the weights of the first values; None if no field has weights."""
        return self._key_weights


def flatten_lists(column: pa.Array) -> tuple[pa.Array, Longs]:
    """The values of a list column, and (B,) the number of each row's; a null list has none."""
    counts = pc.fill_null(pc.list_value_length(column), 0).cast(pa.int64())
    return column.flatten(), counts.to_numpy(zero_copy_only=False)


def match_weights(
    payloads: Longs, counts: Longs, numbers: Floats, number_counts: Longs
) -> tuple[Weights, npt.NDArray[np.bool_]]:
    """The weights (V,) of values, and a mask (B,) of the rows whose weights are not finite or not one for each value.

    Args:
        payloads: (V,) the payload of each value; the weight of a missing one may be anything.
        counts: (B,) the values of each row.
        numbers: (W,) the weights as they were read, NaN where there is none.
        number_counts: (B,) the weights of each row.
    """
    fits = counts == number_counts  # (B,)
    is_matched, is_present = np.repeat(fits, counts), payloads != MISSING  # (V,)
    found = np.ones(len(payloads))
    found[is_matched] = numbers[np.repeat(fits, number_counts)]
    is_good = np.abs(found) <= _MAX_FLOAT32
    is_bad = ~fits
    is_bad[np.repeat(np.arange(len(counts)), counts)[is_present & ~is_good]] = True
    return np.where(is_good & is_present, found, 1).astype(np.float32), is_bad
