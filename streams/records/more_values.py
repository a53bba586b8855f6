"""`MoreValues`: the second and further values of fields, beside the (B, F) matrix that has the first value of each.

keys     (B, F)   k00 k01 k02 | k10 k11 k12 | ...      the first value of each field, or its missing value
offsets  (B + 1,) 0             2             2  ...   row 0 has two further values, row 1 none
more     (M,)     m0 m1       |             | ...      each key has the number of its field in its top byte
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.keys import FIELD_SHIFT, Field, Keys
from streams.records.arrow import lists_of
from streams.records.key_checks import find_invalid

__all__ = [
    "MAX_MORE",
    "MORE",
    "MoreValues",
    "merge_more",
    "more_from_lists",
    "more_of_rows",
    "more_to_lists",
    "type_of_more",
]

W = TypeVar("W", bound=np.generic)
MAX_MORE = 1 << 20  # of a record: as many as 8 MiB hold
MORE = "more"


def type_of_more() -> pa.DataType:
    """The type of the column."""
    return pa.list_(pa.uint64())


@dataclass(frozen=True, kw_only=True)
class MoreValues:
    """The further values of the rows of a batch.

    Attributes:
        offsets: (B + 1,) int64, from 0 to M, never decreasing; row b has `keys[offsets[b] : offsets[b + 1]]`.
        keys: (M,) uint64 feature keys of any fields.
    """

    offsets: npt.NDArray[np.int64]
    keys: Keys

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """(M,) the row of each key."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def columns(self) -> npt.NDArray[np.int64]:
        """(M,) the column of each key's field, from 0."""
        return (self.keys >> FIELD_SHIFT).astype(np.int64) - 1

    def to_bags(
        self, first: npt.NDArray[W], further: npt.NDArray[W] | None = None
    ) -> tuple[npt.NDArray[W], npt.NDArray[np.int64]]:
        """The keys of all values, bag by bag, and where each bag begins, as `torch.nn.EmbeddingBag` takes them.

        Args:
            first: (B, F) the first values.
            further: (M,) other words of the further values than their keys, if `first` has others.

        Returns:
            (B F + M,) keys, those of a field in their order, and (B F,) the offsets of the bags, row by row.
        """
        bag_of_key = self.rows * first.shape[1] + self.columns  # (M,)
        counts = 1 + np.bincount(bag_of_key, minlength=first.size)  # (B F,)
        starts = np.cumsum(counts) - counts
        words = np.empty(first.size + len(self.keys), first.dtype)
        is_first = np.zeros(len(words), np.bool_)
        is_first[starts] = True
        words[is_first] = first.reshape(-1)
        words[~is_first] = (self.keys if further is None else further)[np.argsort(bag_of_key, kind="stable")]
        return words, starts

    def between(self, first: int, last: int) -> MoreValues:
        """Those of the rows from `first` to before `last`."""
        offsets = self.offsets[first : last + 1]
        return MoreValues(offsets=offsets - offsets[0], keys=self.keys[offsets[0] : offsets[-1]])

    def of_rows(self, is_kept: npt.NDArray[np.bool_]) -> MoreValues:
        """Those of the rows that a (B,) mask selects."""
        counts = np.diff(self.offsets)
        return MoreValues(offsets=_ends(counts[is_kept]), keys=self.keys[np.repeat(is_kept, counts)])

    def of_fields(self, num_fields: int) -> MoreValues | None:
        """Those of the first fields; None if there are none."""
        is_kept = self.columns < num_fields
        if is_kept.all():
            return self if len(self.keys) else None
        kept_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_kept)])
        keys = self.keys[is_kept]
        return MoreValues(offsets=kept_before[self.offsets], keys=keys) if len(keys) else None


def _ends(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def more_of_rows(rows: npt.NDArray[np.int64], keys: Keys, num_rows: int) -> MoreValues | None:
    """The further values of a batch, from the row (M,) of each key (M,) in any order; None if there are none.

    The keys of a row stay in their order.
    """
    if not len(keys):
        return None
    order = np.argsort(rows, kind="stable")
    return MoreValues(offsets=_ends(np.bincount(rows, minlength=num_rows)), keys=keys[order])


def merge_more(parts: Sequence[MoreValues | None], sizes: Sequence[int]) -> MoreValues | None:
    """The further values of the rows of several batches, in order; None if no batch has any.

    Args:
        parts: those of each batch.
        sizes: the rows of each batch.
    """
    if all(part is None for part in parts):
        return None
    counts = [
        np.zeros(size, np.int64) if part is None else np.diff(part.offsets)
        for part, size in zip(parts, sizes, strict=True)
    ]
    keys = [part.keys for part in parts if part is not None]
    return MoreValues(offsets=_ends(np.concatenate(counts)), keys=np.concatenate(keys))


def more_to_lists(more: MoreValues) -> pa.Array:
    """The column of a click record."""
    keys = pa.array(np.ascontiguousarray(more.keys, np.uint64))
    return pa.ListArray.from_arrays(pa.array(more.offsets.astype(np.int32)), keys)


def more_from_lists(batch: pa.RecordBatch, fields: tuple[Field, ...]) -> MoreValues | None:
    """The column of a validated batch, checked; None if it is absent or holds no value.

    Raises:
        ValueError: the column has another type, nulls, too many values, or an invalid key.
    """
    found = lists_of(batch, MORE, pa.uint64(), MAX_MORE)
    if found is None or not len(found[1]):
        return None
    offsets, keys = found
    problem = find_invalid(keys, fields)
    if problem is not None:
        raise ValueError(f"column {MORE!r}: {problem}")
    return MoreValues(offsets=offsets, keys=keys)
