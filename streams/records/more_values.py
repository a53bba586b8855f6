"""`MoreValues`: the second and further values of fields, beside the (B, F) matrix that has the first value of each.

keys     (B, F)   k00 k01 k02 | k10 k11 k12 | ...      the first value of each field, or its missing value
offsets  (B + 1,) 0             2             2  ...   row 0 has two further values, row 1 none
more     (M,)     m0 m1       |             | ...      each key has the number of its field in its top byte

Where values have weights, (B, F) `key_weights` and (M,) `weights` stand beside the two.
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
    "KEY_WEIGHTS",
    "MAX_MORE",
    "MORE",
    "MORE_WEIGHTS",
    "MoreValues",
    "Weights",
    "merge_key_weights",
    "merge_more",
    "more_from_lists",
    "more_of_rows",
    "more_to_lists",
    "more_weights_to_lists",
    "no_more",
    "type_of_more",
    "type_of_more_weights",
]

W = TypeVar("W", bound=np.generic)
MAX_MORE = 1 << 20  # of a record: as many as 8 MiB hold
MORE, MORE_WEIGHTS, KEY_WEIGHTS = "more", "more_weights", "key_weights"
Weights = npt.NDArray[np.float32]


def type_of_more() -> pa.DataType:
    """The type of the column of further values."""
    return pa.list_(pa.uint64())


def type_of_more_weights() -> pa.DataType:
    """The type of the column of their weights."""
    return pa.list_(pa.float32())


@dataclass(frozen=True, kw_only=True)
class MoreValues:
    """The further values of the rows of a batch.

    Attributes:
        offsets: (B + 1,) int64, from 0 to M, never decreasing; row b has `keys[offsets[b] : offsets[b + 1]]`.
        keys: (M,) uint64 feature keys of any fields.
        weights: (M,) float32, finite, the factor of each value's vector; None if all are 1. There are some if and only
            if the first values have some.
    """

    offsets: npt.NDArray[np.int64]
    keys: Keys
    weights: Weights | None = None

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

    def weights_of_bags(self, key_weights: Weights | None) -> Weights | None:
        """The weights (B F + M,) of the keys of `to_bags`; None if the first values (B, F) have none."""
        if key_weights is None:
            return None
        return self.to_bags(key_weights, _or_ones(self.weights, (len(self.keys),)))[0]

    def between(self, first: int, last: int) -> MoreValues:
        """Those of the rows from `first` to before `last`."""
        offsets = self.offsets[first : last + 1]
        return self._of(offsets - offsets[0], slice(offsets[0], offsets[-1]))

    def of_rows(self, is_kept: npt.NDArray[np.bool_]) -> MoreValues:
        """Those of the rows that a (B,) mask selects."""
        counts = np.diff(self.offsets)
        return self._of(_ends(counts[is_kept]), np.repeat(is_kept, counts))

    def of_fields(self, num_fields: int) -> MoreValues | None:
        """Those of the first fields; None if there are none."""
        is_kept = self.columns < num_fields
        if is_kept.all():
            return self if len(self.keys) else None
        kept_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_kept)])
        return self._of(kept_before[self.offsets], is_kept) if is_kept.any() else None

    def _of(self, offsets: npt.NDArray[np.int64], kept: slice | npt.NDArray[np.bool_]) -> MoreValues:
        """A part of the values, at these offsets."""
        return MoreValues(
            offsets=offsets, keys=self.keys[kept], weights=None if self.weights is None else self.weights[kept]
        )


def _ends(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def no_more(num_rows: int) -> MoreValues:
    """The further values of rows that have none, for code that takes bags."""
    return MoreValues(offsets=np.zeros(num_rows + 1, np.int64), keys=np.empty(0, np.uint64))


def more_of_rows(
    rows: npt.NDArray[np.int64], keys: Keys, num_rows: int, weights: Weights | None = None
) -> MoreValues | None:
    """The further values of a batch, from the row (M,) of each key (M,) in any order; None if there are none.

    The keys of a row stay in their order.
    """
    if not len(keys):
        return None
    order = np.argsort(rows, kind="stable")
    return MoreValues(
        offsets=_ends(np.bincount(rows, minlength=num_rows)),
        keys=keys[order],
        weights=None if weights is None else weights[order],
    )


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
    found = [part for part in parts if part is not None]
    weights = None
    if any(part.weights is not None for part in found):
        weights = np.concatenate([_or_ones(part.weights, (len(part.keys),)) for part in found])
    return MoreValues(
        offsets=_ends(np.concatenate(counts)), keys=np.concatenate([part.keys for part in found]), weights=weights
    )


def merge_key_weights(parts: Sequence[Weights | None], shapes: Sequence[tuple[int, ...]]) -> Weights | None:
    """The weights (B, F) of the first values of several batches; None if no batch has any."""
    if all(part is None for part in parts):
        return None
    return np.concatenate([_or_ones(part, shape) for part, shape in zip(parts, shapes, strict=True)])


def _or_ones(weights: Weights | None, shape: tuple[int, ...]) -> Weights:
    return np.ones(shape, np.float32) if weights is None else weights


def more_to_lists(more: MoreValues) -> pa.Array:
    """The column of a click record."""
    return _lists(more, pa.array(np.ascontiguousarray(more.keys, np.uint64)))


def more_weights_to_lists(more: MoreValues) -> pa.Array:
    """The column of the weights of further values, 1 if they have none."""
    return _lists(more, pa.array(_or_ones(more.weights, (len(more.keys),)), pa.float32()))


def _lists(more: MoreValues, values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(more.offsets.astype(np.int32)), values)


def more_from_lists(batch: pa.RecordBatch, fields: tuple[Field, ...]) -> MoreValues | None:
    """The columns of a validated batch, checked; None if they are absent or hold no value.

    Raises:
        ValueError: a column has another type, nulls, too many values, an invalid key, or a weight that is not finite;
            or the weights are not as many as the values of their row.
    """
    found = lists_of(batch, MORE, pa.uint64(), MAX_MORE)
    weighted = lists_of(batch, MORE_WEIGHTS, pa.float32(), MAX_MORE)
    if weighted is not None and (found is None or not np.array_equal(found[0], weighted[0])):
        raise ValueError(f"column {MORE_WEIGHTS!r}: expected a weight for each value of {MORE!r}, row by row")
    if found is None or not len(found[1]):
        return None
    offsets, keys = found
    problem = find_invalid(keys, fields)
    if problem is not None:
        raise ValueError(f"column {MORE!r}: {problem}")
    weights = None if weighted is None else weighted[1]
    if weights is not None and not np.isfinite(weights).all():
        raise ValueError(f"column {MORE_WEIGHTS!r}: got other values, expected finite numbers")
    return MoreValues(offsets=offsets, keys=keys, weights=weights)
