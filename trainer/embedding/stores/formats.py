"""The three row formats that share one set of numba loops, which are specialised by the dtype of the table.

    format     bytes a row     values (R, D)     scales
    float32    4 D             float32           (0,)
    bfloat16   2 D             bfloat16          (0,)
    int8       D + 2           int8              (R,) bfloat16: a value is its int8 times the scale of its row

An optimizer step rounds stochastically: the rounding error is zero on average, so small updates are not lost. An
overwrite rounds to nearest. An int8 row keeps its scale until its largest magnitude leaves [.5, 1] of the range; the
new scale puts that magnitude at .85 of the range.
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
    """Rows in float32."""

    precision: ClassVar[float] = 2.0**-24

    @classmethod
    def vector_bytes(cls, dim: int) -> int:
        """As `Store.vector_bytes`."""
        return 4 * dim

    def _make(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return vectors, _no_scales()

    def _read_rows(self, rows: Tensor) -> Tensor:
        return self.values[rows]

    def _write_rows(self, rows: Tensor, vectors: Tensor, scales: Tensor | None, noise: Noise | None) -> None:  # noqa: ARG002
        self.values[rows] = vectors


class BFloat16Rows(RowStore):
    """Rows in bfloat16, the upper half of a float32."""

    precision: ClassVar[float] = 2.0**-8

    @classmethod
    def vector_bytes(cls, dim: int) -> int:
        """As `Store.vector_bytes`."""
        return 2 * dim

    def _make(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return vectors.to(torch.bfloat16), _no_scales()

    def _read_rows(self, rows: Tensor) -> Tensor:
        return self.values[rows].float()

    def _write_rows(self, rows: Tensor, vectors: Tensor, scales: Tensor | None, noise: Noise | None) -> None:  # noqa: ARG002
        if noise is None:
            self.values[rows] = vectors.to(torch.bfloat16)
            return
        bits = vectors.contiguous().view(torch.int32) + noise.bits(rows, self.dim).int()
        self.values[rows] = (bits >> 16).to(torch.int16).view(torch.bfloat16)


class ScaledRows(RowStore):
    """Rows of integers in -`limit` to `limit`, times a bfloat16 scale per row."""

    limit: ClassVar[float]

    @abstractmethod
    def _pack(self, whole: Tensor) -> Tensor:
        """Packs integers (K, D), given as float32, into the stored form."""

    @abstractmethod
    def _unpack(self, packed: Tensor) -> Tensor:
        """Unpacks the stored form into integers (K, D), as float32."""

    def _make(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return self._quantised(vectors, torch.ones(len(vectors), dtype=torch.bfloat16), 0.5)

    def _read_rows(self, rows: Tensor) -> Tensor:
        return self._unpack(self.values[rows]) * self.row_scales[rows].float()[:, None]

    def _write_rows(self, rows: Tensor, vectors: Tensor, scales: Tensor | None, noise: Noise | None) -> None:
        offset = 0.5 if noise is None else (noise.bits(rows, self.dim).float() + 0.5) / 65536.0
        if scales is None:
            scales = torch.ones_like(self.row_scales[rows])
        self.values[rows], self.row_scales[rows] = self._quantised(vectors, scales, offset)

    def _quantised(self, vectors: Tensor, scales: Tensor, offset: float | Tensor) -> tuple[Tensor, Tensor]:
        """Quantises vectors (K, D); returns the stored form and scales (K,), the given ones where they still fit."""
        peaks = vectors.abs().amax(dim=1)  # (K,)
        limits = self.limit * scales.float()
        renewed = (peaks / float(np.float32(kernels.TARGET * self.limit))).to(torch.bfloat16)
        kept = ((limits * 0.5 <= peaks) & (peaks <= limits)) | (renewed == 0)
        scales = torch.where(kept, scales, renewed)
        return self._pack((vectors / scales.float()[:, None] + offset).floor()), scales


class Int8Rows(ScaledRows):
    """Rows of one byte per value, and a scale per row."""

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
