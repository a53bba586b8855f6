"""`Noise`: the random bits of stochastic rounding, a function of seed, step, row and column; the torch body.

`trainer.embedding.stores.lanes` has the numba body.
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
    """Where the random bits of one optimizer step come from.

    Attributes:
        seed: of the embedding.
        step: the step's number.
        first_row: added to a store's row numbers.
    """

    seed: int
    step: int
    first_row: int = 0

    @property
    def word(self) -> np.uint64:
        """What is mixed with a row's number: the step in the upper half, and the seed over both."""
        return np.uint64(_mixed(self.seed) ^ np.uint64((self.step & _MASK) << 32))

    def bits(self, rows: Tensor, dim: int) -> Tensor:
        """(K, D) int64, 16 random bits for each column of rows (K,): `lanes._noise`."""
        step, factor_1, factor_2 = NOISE_CONSTANTS
        word = int(self.word.astype(np.int64))
        salt = mix64_tensor(rows.long() + self.first_row ^ word) & _MASK  # (K,)
        columns = torch.arange(dim, device=rows.device)  # (D,)
        words = ((columns >> 4 << 3 | columns & 7) * step) & _MASK  # one word serves two numbers
        bits = (salt[:, None] + words) & _MASK
        bits = ((bits ^ bits >> 16) * factor_1) & _MASK
        bits = ((bits ^ bits >> 15) * factor_2) & _MASK
        return bits >> ((columns & 8) << 1) & 0xFFFF
