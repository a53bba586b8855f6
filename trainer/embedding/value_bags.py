"""`Bags`: click rows whose fields have several values, and the sum of the vectors of each field's values.

    keys     k00 m0 | k01 | k02 m1 m2 | k10 | ...     the first value and the further ones of each row and field
    starts   0        2     3           6     ...     where each of the B F bags begins
    bags     0   0    1     2   2  2    3     ...     (N,) the bag of each key

    vectors (N, D) --times weights (N,), if there are any, summed by bag--> (B, F, D)

The sum, not the mean: the gradient at each value's vector is that at the field's vector, so importance is not divided
by the number of values that stand beside a value, and a field of one value is what it is without bags. The gradient at
the vector of a value with a weight has that weight, and so has its importance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from streams.records import MoreValues, Weights, no_more
from trainer.embedding.key_embedding import CapturingEmbedding
from trainer.embedding.transfers import to_device

__all__ = ["Bags", "sum_values", "sum_vectors"]


@dataclass(frozen=True, kw_only=True)
class Bags:
    """The values of B rows and F fields, N in all.

    Attributes:
        keys: (N,) int64 words of the feature keys, bag by bag.
        starts: (B F,) int64, the first key of each bag, row by row; no bag is empty.
        bags: (N,) int64, the bag of each key.
        row_ends: (B,) the end of each row's keys, on the host.
        num_fields: F.
        weights: (N,) float32, the factor of each key's vector; None for 1.
    """

    keys: Tensor
    starts: Tensor
    bags: Tensor
    row_ends: Any
    num_fields: int
    weights: Tensor | None = None

    @classmethod
    def of(
        cls,
        keys: npt.NDArray[Any],
        more: MoreValues | None,
        device: torch.device,
        further: Any = None,
        key_weights: Weights | None = None,
    ) -> Bags:
        """The bags of first values (B, F), with their weights (B, F), and of the further ones.

        Args:
            keys: the first values.
            more: the further ones; None if there are none.
            device: the device of the bags.
            further: (M,) as in `MoreValues.to_bags`.
            key_weights: the weights of the first values; None if no value has one.
        """
        more = no_more(len(keys)) if more is None else more
        words, starts = more.to_bags(keys, further)
        weights = more.weights_of_bags(key_weights)
        ends = np.append(starts[1:], len(words))
        return cls(
            keys=to_device(words.view(np.int64), device),
            starts=to_device(starts, device),
            bags=to_device(np.repeat(np.arange(len(starts)), ends - starts), device),
            row_ends=ends[keys.shape[1] - 1 :: keys.shape[1]],
            num_fields=keys.shape[1],
            weights=None if weights is None else to_device(weights, device),
        )

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.row_ends)

    def lookups_of(self, record_rows: Sequence[int]) -> list[int]:
        """The number of keys of each click record, from the number of its rows."""
        ends = self.row_ends[np.cumsum(record_rows) - 1]
        return [int(count) for count in np.diff(ends, prepend=0)]


class _Sum(torch.autograd.Function):
    """Sums by bag in the order of the keys, on any device; its backward pass does not wait for the device."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, starts: Tensor, bags: Tensor) -> Tensor:
        """The sums (B F, D)."""
        ctx.save_for_backward(bags)
        each = torch.arange(len(vectors), device=vectors.device)
        return embedding_bag(each, vectors, starts, mode="sum")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradient (N, D) at each vector is that at its bag."""
        (bags,) = ctx.saved_tensors
        return gradients[0].index_select(0, bags), None, None


def sum_values(embedding: CapturingEmbedding, bags: Bags, record_rows: Sequence[int] | None = None) -> Tensor:
    """The vectors (B, F, D): for each row and field the sum of its values' vectors.

    Args:
        embedding: gives the vectors, and learns from their gradients.
        bags: the values.
        record_rows: the rows of each click record in the batch; None for one record.
    """
    lookups = None if record_rows is None else bags.lookups_of(record_rows)
    vectors = embedding.vectors_of(bags.keys, batch_rows=bags.num_rows, record_lookups=lookups)  # (N, D)
    return sum_vectors(vectors, bags)


def sum_vectors(vectors: Tensor, bags: Bags) -> Tensor:
    """The sums (B, F, D) of the vectors (N, D) of the values, times their weights."""
    if bags.weights is not None:
        vectors = vectors * bags.weights[:, None]
    summed: Tensor = _Sum.apply(vectors, bags.starts, bags.bags)
    return summed.view(bags.num_rows, bags.num_fields, -1)
