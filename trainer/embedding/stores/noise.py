"""`Noise`: the random bits of stochastic rounding, a function of seed, step, row and column.

This is the torch body; `trainer.embedding.stores.lanes` has the numba body.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from sketch.hashing import mix64_array
from trainer.embedding.gathers import mix64_tensor
from trainer.embedding.stores.lanes import NOISE_CONSTANTS

__all__ = ["Noise"]

_MASK = 0xFFFFFFFF


@lru_cache(maxsize=64)
def _mixed(seed: int) -> np.uint64:
    return np.uint64(mix64_array(np.array([seed], np.uint64))[0])


@dataclass(frozen=True)
class Noise:
    """The source of the random bits of one optimizer step.

    Attributes:
        seed: seed of the embedding.
        step: number of the step.
        first_row: offset that is added to the row numbers of a store.
    """

    seed: int
    step: int
    first_row: int = 0

    @property
    def word(self) -> np.uint64:
        """The word that is mixed with a row's number: the step in the upper half, xor the mixed seed."""
        return np.uint64(_mixed(self.seed) ^ np.uint64((self.step & _MASK) << 32))

    def bits(self, rows: Tensor, dim: int) -> Tensor:
        """16 random bits, (K, D) int64, for each column of rows (K,); equal to `lanes._noise`."""
        step, factor_1, factor_2 = NOISE_CONSTANTS
        word = int(self.word.astype(np.int64))
        salt = mix64_tensor(rows.long() + self.first_row ^ word) & _MASK  # (K,)
        columns = torch.arange(dim, device=rows.device)  # (D,)
        words = ((columns >> 4 << 3 | columns & 7) * step) & _MASK  # each word serves two columns
        bits = (salt[:, None] + words) & _MASK
        bits = ((bits ^ bits >> 16) * factor_1) & _MASK
        bits = ((bits ^ bits >> 15) * factor_2) & _MASK
        return bits >> ((columns & 8) << 1) & 0xFFFF
