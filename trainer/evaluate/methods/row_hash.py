"""How shared rows are split among fields, and which of its field's rows a feature gets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sketch.hashing import GOLDEN_RATIO, mix64_array

__all__ = ["Placing", "split_rows"]

Rows = npt.NDArray[np.int64]
_HALF = np.uint64(32)


def split_rows(total: int, sizes: Sequence[int], how: str) -> Rows:
    """Rows for each field (F,): at least 1, at most its size, together at most `total` (which is F or more).

    Args:
        total: rows to give away.
        sizes: features of each field.
        how: `proportional` to the sizes (as published), or `equal`, where what a small field leaves goes to others.
    """
    limits = np.asarray(sizes, np.int64)
    if total >= limits.sum():
        return limits
    low, high = 0.0, float(total)
    weights = limits / limits.sum() if how == "proportional" else np.full(len(limits), 1 / len(limits))

    def split(scale: float) -> Rows:
        rows: Rows = np.clip(np.floor(weights * scale), 1, limits).astype(np.int64)
        return rows

    while split(high).sum() <= total and high < 1e15:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if split(middle).sum() <= total else (low, middle)
    return split(low)


class Placing:
    """Feature number -> row: its own where its field has enough rows, else a seeded hash within its field's rows.

    Args:
        sizes: features of each field (F,).
        rows: rows of each field (F,).
        seed: of the hash.
        first_row: where they begin.
    """

    def __init__(self, sizes: Sequence[int], rows: Rows, seed: int, first_row: int = 0) -> None:
        self.rows = rows
        self.first_ids = np.concatenate([[0], np.cumsum(sizes)[:-1]])  # (F,)
        self.first_rows = first_row + np.concatenate([[0], np.cumsum(rows)[:-1]])  # (F,)
        self._fits = rows >= np.asarray(sizes)
        self._salt = mix64_array(np.array([(seed + 1) * int(GOLDEN_RATIO) % (1 << 64)], np.uint64))[0]

    @property
    def num_rows(self) -> int:
        """Rows of all fields."""
        return int(self.rows.sum())

    def __call__(self, ids: Rows) -> Rows:
        """The rows of feature numbers (B, F)."""
        hashed = mix64_array(ids.astype(np.uint64) ^ self._salt) >> _HALF  # (B, F)
        places = (hashed * self.rows.astype(np.uint64) >> _HALF).astype(np.int64)
        rows: Rows = np.where(self._fits, ids - self.first_ids, places) + self.first_rows
        return rows

    def of_fields(self, ids: Rows, fields: Rows) -> Rows:
        """The rows of feature numbers (K,) that belong to fields (K,), counted from 0."""
        hashed = mix64_array(ids.astype(np.uint64) ^ self._salt) >> _HALF
        places = (hashed * self.rows[fields].astype(np.uint64) >> _HALF).astype(np.int64)
        rows: Rows = np.where(self._fits[fields], ids - self.first_ids[fields], places) + self.first_rows[fields]
        return rows
