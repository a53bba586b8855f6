"""`AdaptiveEmbeddingBag`: several values in a field, with weights, as `torch.nn.EmbeddingBag` has them.

keys      k0 k1 | k2 | - | k3 k4 k5 | ...      a bag for each row and field, in the order of the rows: B F bags
offsets   0       2    3   3          6 ...    where each bag begins
vectors   (N, D) --times weights, summed by bag--> (B, F, D)
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.backends import Backend
from trainer.embedding.plans import EmbeddingPlan
from trainer.embedding.stores.rows import RowOptimizer
from trainer.errors import BagError

__all__ = ["AdaptiveEmbeddingBag"]

Keys = Tensor | npt.NDArray[np.uint64]
_JAGGED = ("keys", "values", "offsets", "weights_or_none")


class AdaptiveEmbeddingBag(AdaptiveEmbedding):
    """An `AdaptiveEmbedding` whose fields have any number of values; its state is that of an `AdaptiveEmbedding`.

    The importance of a key counts each of its lookups, with its weight, because the gradient at a vector has it.

    Args:
        plan: the sizes.
        mode: `sum` or `mean` of a bag's vectors; an empty bag is zero.
        include_last_offset: whether `offsets` ends with the number of keys, as in `torch.nn.EmbeddingBag`.
        optimizer: the hyperparameters of the rows' optimizer.
        seed: the seed of the initial values.
        device: the device of the rows.
        backend: `numba` or `torch`; None for the default of the device.

    Raises:
        BagError: another mode.
    """

    def __init__(
        self,
        plan: EmbeddingPlan,
        *,
        mode: Literal["sum", "mean"] = "sum",
        include_last_offset: bool = False,
        optimizer: RowOptimizer | None = None,
        seed: int = 0,
        device: torch.device | None = None,
        backend: Backend | None = None,
    ) -> None:
        if mode not in ("sum", "mean"):
            raise BagError(f"mode: got {mode!r}, expected 'sum' or 'mean'")
        super().__init__(plan, optimizer=optimizer, seed=seed, device=device, backend=backend)
        self.mode, self.include_last_offset = mode, include_last_offset

    def forward(self, keys: Any, offsets: Any = None, weights: Any = None) -> Tensor:
        """The sums (or means) of the bags' vectors, (B, F, D) float32.

        Args:
            keys: (N,) the keys of all bags, int64 or uint64; or (B, F) without `offsets`, one value a field; or a
                TorchRec `KeyedJaggedTensor` whose values are feature keys, with its own weights, F its features.
            offsets: (B F,) int64 or int32, where each bag begins, row by row; one more with `include_last_offset`. A
                tensor, or a numpy array, as `hotstream.key_bags` gives it.
            weights: (N,) float32, a tensor, which may have a gradient, or a numpy array; None for 1. Only with mode
                `sum`.

        Raises:
            BagError: offsets or weights do not fit the keys.
            KeyRangeError: a key's field number is not 1 to F (on a CPU).
            KeyTypeError: the keys have another dtype.
        """
        if all(hasattr(keys, name) for name in _JAGGED):
            return self._forward_jagged(keys)
        if offsets is None:
            if weights is not None:
                raise BagError("weights: got some without offsets, expected both")
            return super().forward(keys)
        offsets = torch.as_tensor(offsets)
        weights = None if weights is None else torch.as_tensor(weights)
        starts = offsets[:-1] if self.include_last_offset else offsets
        num_fields = self.plan.layout.num_fields
        if len(starts) % num_fields:
            raise BagError(
                f"offsets: got {len(starts)} bags, expected a multiple of the {num_fields} fields, one bag for each "
                "row and field"
            )
        return self._pool(keys, starts, weights).view(-1, num_fields, self.plan.dim)

    def _forward_jagged(self, jagged: Any) -> Tensor:
        """The bags of a `KeyedJaggedTensor`, which has all rows of its first feature, then those of the second."""
        starts, num_features = jagged.offsets()[:-1], len(jagged.keys())
        pooled = self._pool(jagged.values(), starts, jagged.weights_or_none())
        return pooled.view(num_features, -1, self.plan.dim).transpose(0, 1)

    def _pool(self, keys: Keys, starts: Tensor, weights: Tensor | None) -> Tensor:
        """The bags' vectors (B F, D) of keys (N,), which begin at `starts` (B F,)."""
        starts = starts.to(self.device)
        self._check(keys, starts, weights)
        num_fields = self.plan.layout.num_fields
        vectors = self.vectors_of(keys, batch_rows=max(1, len(starts) // num_fields))  # (N, D)
        if weights is not None:
            weights = weights.to(self.device, torch.float32)
        each = torch.arange(len(vectors), dtype=starts.dtype, device=self.device)
        return embedding_bag(each, vectors, starts, mode=self.mode, per_sample_weights=weights)

    def _check(self, keys: Keys, starts: Tensor, weights: Tensor | None) -> None:
        if keys.ndim != 1 or starts.dtype not in (torch.int32, torch.int64):
            raise BagError(
                f"keys and offsets: got keys of shape {tuple(keys.shape)} and offsets of {starts.dtype}, expected keys "
                "(N,) and int64 offsets"
            )
        if weights is not None and (self.mode != "sum" or tuple(weights.shape) != tuple(keys.shape)):
            raise BagError(
                f"weights: got shape {tuple(weights.shape)} in mode {self.mode!r}, expected {tuple(keys.shape)}, one "
                "for each key, in mode 'sum'"
            )
        if self.device.type == "cpu" and len(starts):  # elsewhere the check would wait for the device
            ends = torch.cat([starts[1:], starts.new_tensor([len(keys)])])
            if int(starts[0]) != 0 or bool((ends < starts).any()):
                raise BagError(f"offsets: expected numbers from 0 to {len(keys)} that never decrease, the first one 0")
