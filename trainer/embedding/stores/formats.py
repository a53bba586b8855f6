"""Rows in the three formats that one numba loop serves: its table's type tells it which.

    format     bytes a row     values (R, D)     scales
    float32    4 D             float32           (0,)
    bfloat16   2 D             bfloat16          (0,)
    int8       D + 2           int8              (R,) bfloat16: a number is its int8 times its row's scale

What does not fit is rounded stochastically when a row is trained (right on average, so that small steps are not lost)
and to the nearest when a row is overwritten. The scale of an int8 row is kept until the row's maximum leaves [.5, 1] of
its range, and then set so that it sits at .85.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from trainer.embedding.stores import kernels
from trainer.embedding.stores.noise import Noise
from trainer.embedding.stores.rows import RowStore

__all__ = ["BFloat16Rows", "Float32Rows", "Int8Rows", "ScaledRows"]


def _no_scales() -> Tensor:
    return torch.empty(0, dtype=torch.bfloat16)


class Float32Rows(RowStore):
    """Numbers as they are."""

    precision: ClassVar[float] = 2.0**-24

    @classmethod
    def vector_bytes(cls, dim: int) -> int:
        """As `Store.vector_bytes`."""
        return 4 * dim

    def _make(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return numbers, _no_scales()

    def _read_rows(self, rows: Tensor) -> Tensor:
        return self.values[rows]

    def _write_rows(self, rows: Tensor, numbers: Tensor, scales: Tensor | None, noise: Noise | None) -> None:  # noqa: ARG002
        self.values[rows] = numbers


class BFloat16Rows(RowStore):
    """The upper half of a float32."""

    precision: ClassVar[float] = 2.0**-8

    @classmethod
    def vector_bytes(cls, dim: int) -> int:
        """As `Store.vector_bytes`."""
        return 2 * dim

    def _make(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return numbers.to(torch.bfloat16), _no_scales()

    def _read_rows(self, rows: Tensor) -> Tensor:
        return self.values[rows].float()

    def _write_rows(self, rows: Tensor, numbers: Tensor, scales: Tensor | None, noise: Noise | None) -> None:  # noqa: ARG002
        if noise is None:
            self.values[rows] = numbers.to(torch.bfloat16)
            return
        bits = numbers.contiguous().view(torch.int32) + noise.bits(rows, self.dim).int()
        self.values[rows] = (bits >> 16).to(torch.int16).view(torch.bfloat16)


class ScaledRows(RowStore):
    """Whole numbers of -`limit` to `limit` times a scale of the row's own, a bfloat16."""

    limit: ClassVar[float]

    @abstractmethod
    def _pack(self, whole: Tensor) -> Tensor:
        """What is stored of whole numbers (K, D) float32."""

    @abstractmethod
    def _unpack(self, packed: Tensor) -> Tensor:
        """The whole numbers (K, D) float32."""

    def _make(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return self._quantised(numbers, torch.ones(len(numbers), dtype=torch.bfloat16), 0.5)

    def _read_rows(self, rows: Tensor) -> Tensor:
        return self._unpack(self.values[rows]) * self.row_scales[rows].float()[:, None]

    def _write_rows(self, rows: Tensor, numbers: Tensor, scales: Tensor | None, noise: Noise | None) -> None:
        up = 0.5 if noise is None else (noise.bits(rows, self.dim).float() + 0.5) / 65536.0
        if scales is None:
            scales = torch.ones_like(self.row_scales[rows])
        self.values[rows], self.row_scales[rows] = self._quantised(numbers, scales, up)

    def _quantised(self, numbers: Tensor, scales: Tensor, up: float | Tensor) -> tuple[Tensor, Tensor]:
        """What is stored of numbers (K, D), and their scales (K,): the given ones where they suit."""
        peaks = numbers.abs().amax(dim=1)  # (K,)
        limits = self.limit * scales.float()
        renewed = (peaks / float(np.float32(kernels.TARGET * self.limit))).to(torch.bfloat16)
        kept = ((limits * 0.5 <= peaks) & (peaks <= limits)) | (renewed == 0)
        scales = torch.where(kept, scales, renewed)
        return self._pack((numbers / scales.float()[:, None] + up).floor()), scales


class Int8Rows(ScaledRows):
    """A byte a number."""

    limit: ClassVar[float] = float(kernels.INT8_LIMIT)
    precision: ClassVar[float] = 1 / 127

    @classmethod
    def vector_bytes(cls, dim: int) -> int:
        """As `Store.vector_bytes`."""
        return dim + 2

    def _pack(self, whole: Tensor) -> Tensor:
        return whole.to(torch.int8)

    def _unpack(self, packed: Tensor) -> Tensor:
        return packed.float()
