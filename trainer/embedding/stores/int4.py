"""`Int4Rows`: two values per byte and a scale per row, D / 2 + 2 bytes.

    values (R, H) uint8, H = D / 2 rounded up    byte j: value j in the lower four bits, value H + j in the upper four
    scales (R,) bfloat16                         a value is its four bits minus 8, in -7 to 7, times the scale

Scales, rounding and optimizer steps work as for int8 rows. `int4_kernels` has plain loops of its own, because the
vectors of `lanes` hold whole bytes.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from trainer.embedding.stores.formats import ScaledRows
from trainer.embedding.stores.int4_kernels import LIMIT, OFFSET, gather, step

__all__ = ["Int4Rows"]


class Int4Rows(ScaledRows):
    """Rows of four bits per value, and a scale per row."""

    limit: ClassVar[float] = float(LIMIT)
    precision: ClassVar[float] = 1 / 7

    @classmethod
    def vector_bytes(cls, dim: int) -> int:
        """As `Store.vector_bytes`."""
        return (dim + 1) // 2 + 2

    def _pack(self, whole: Tensor) -> Tensor:
        half = (whole.shape[1] + 1) // 2
        bits = torch.nn.functional.pad(whole + OFFSET, (0, 2 * half - whole.shape[1])).to(torch.uint8)
        return bits[:, :half] | bits[:, half:] << 4

    def _unpack(self, packed: Tensor) -> Tensor:
        return torch.cat([packed & 15, packed >> 4], dim=1)[:, : self.dim].float() - OFFSET

    @property
    def _gather_kernel(self) -> Any:
        return gather

    @property
    def _step_kernel(self) -> Any:
        return step
