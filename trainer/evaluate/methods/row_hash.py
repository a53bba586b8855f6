"""Splits shared rows among fields, and maps each feature to one of the rows of its field."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sketch.hashing import GOLDEN_RATIO, mix64_array
from streams.generator.bisection import bisect

__all__ = ["RowHash", "fields_of", "split_rows"]

Rows = npt.NDArray[np.int64]
_HALF = np.uint64(32)


def split_rows(total: int, sizes: Sequence[int], how: str) -> Rows:
    """Rows per field (F,): at least 1 and at most its size each, at most `total` (F or more) in sum.

    Args:
        total: rows to split.
        sizes: features of each field.
        how: `proportional` to the sizes (as published), or `equal`, where fields with
            rows to spare leave them to others.
    """
    limits = np.asarray(sizes, np.int64)
    if total >= limits.sum():
        return limits
    high = float(total)
    weights = limits / limits.sum() if how == "proportional" else np.full(len(limits), 1 / len(limits))

    def split(scale: float) -> Rows:
        rows: Rows = np.clip(np.floor(weights * scale), 1, limits).astype(np.int64)
        return rows

    while split(high).sum() <= total and high < 1e15:
        high *= 2
    scale, _ = bisect(lambda scale: bool(split(scale).sum() <= total), 0.0, high, num_steps=100)
    return split(scale)


def fields_of(ids: Rows, first_ids: Rows) -> Rows:
    """The fields (N,), from 0, of feature numbers (N,), from the first number of each field (F,)."""
    fields: Rows = np.searchsorted(first_ids, ids, side="right") - 1
    return fields


class RowHash:
    """Maps a feature number to a row: its own if the field has enough rows, else one that a seeded hash selects.

    Args:
        sizes: features of each field (F,).
        rows: rows of each field (F,).
        seed: seed of the hash.
        first_row: the first row of the first field.
    """

    def __init__(self, sizes: Sequence[int], rows: Rows, seed: int, first_row: int = 0) -> None:
        self.rows = rows
        self.first_ids = np.concatenate([[0], np.cumsum(sizes)[:-1]])  # (F,)
        self.first_rows = first_row + np.concatenate([[0], np.cumsum(rows)[:-1]])  # (F,)
        self._fits = rows >= np.asarray(sizes)
        self._salt = mix64_array(np.array([(seed + 1) * int(GOLDEN_RATIO) % (1 << 64)], np.uint64))[0]

    @property
    def num_rows(self) -> int:
        """Rows in total."""
        return int(self.rows.sum())

    def __call__(self, ids: Rows) -> Rows:
        """The rows of feature numbers (B, F), or (N,) of any fields."""
        if ids.ndim == 1:
            return self.of_fields(ids, fields_of(ids, self.first_ids))
        hashed = mix64_array(ids.astype(np.uint64) ^ self._salt) >> _HALF  # (B, F)
        shared = (hashed * self.rows.astype(np.uint64) >> _HALF).astype(np.int64)
        rows: Rows = np.where(self._fits, ids - self.first_ids, shared) + self.first_rows
        return rows

    def of_fields(self, ids: Rows, fields: Rows) -> Rows:
        """The rows of feature numbers (K,) that belong to fields (K,), counted from 0."""
        hashed = mix64_array(ids.astype(np.uint64) ^ self._salt) >> _HALF
        shared = (hashed * self.rows[fields].astype(np.uint64) >> _HALF).astype(np.int64)
        rows: Rows = np.where(self._fits[fields], ids - self.first_ids[fields], shared) + self.first_rows[fields]
        return rows
