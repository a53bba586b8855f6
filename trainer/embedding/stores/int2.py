"""`Int2Rows`: four values per byte and a scale per row, D / 4 + 2 bytes; only `hotstream evaluate` uses it.

    values (R, Q) uint8, Q = D / 4 rounded up    byte j: value j in the lowest two bits, then Q + j, 2 Q + j, 3 Q + j
    scales (R,) bfloat16                         a value is its two bits minus 1.5, times the scale

So a value is one of -1.5, -.5, .5 and 1.5 scales: no level is wasted, and none is zero. A row of zeros has the scale 0.
Scales and rounding work as for int8 rows. Reads and steps are the torch bodies.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from trainer.embedding.stores.formats import ScaledRows
from trainer.embedding.stores.kernels import TARGET
from trainer.embedding.stores.store import Reads, Sums

__all__ = ["Int2Rows"]

_SHIFTS = (0, 2, 4, 6)


class Int2Rows(ScaledRows):
    """Rows of two bits per value, and a scale per row."""

    limit: ClassVar[float] = 1.5
    precision: ClassVar[float] = 2 / 3

    @classmethod
    def vector_bytes(cls, dim: int) -> int:
        """As `Store.vector_bytes`."""
        return (dim + 3) // 4 + 2

    def _pack(self, whole: Tensor) -> Tensor:
        quarter = (whole.shape[1] + 3) // 4
        bits = torch.nn.functional.pad(whole, (0, 4 * quarter - whole.shape[1])).to(torch.uint8)
        parts = bits.view(len(bits), 4, quarter)
        return parts[:, 0] | parts[:, 1] << 2 | parts[:, 2] << 4 | parts[:, 3] << 6

    def _unpack(self, packed: Tensor) -> Tensor:
        bits = torch.cat([packed >> shift & 3 for shift in _SHIFTS], dim=1)
        return bits[:, : self.dim].float() - self.limit

    def _quantised(self, vectors: Tensor, scales: Tensor, offset: float | Tensor) -> tuple[Tensor, Tensor]:
        """As `ScaledRows._quantised`, for levels between the integers."""
        peaks = vectors.abs().amax(dim=1)  # (K,)
        limits = self.limit * scales.float()
        kept = (limits * 0.5 <= peaks) & (peaks <= limits)
        renewed = (peaks / float(np.float32(TARGET * self.limit))).to(torch.bfloat16)
        scales = torch.where(kept, scales, renewed)
        divisors = torch.where(scales > 0, scales, torch.ones_like(scales)).float()[:, None]
        levels = (vectors / divisors + self.limit + offset).floor()
        return self._pack(levels.clamp(0, 2 * self.limit)), scales

    def gather(self, reads: Reads, out: Tensor) -> None:
        """As `Store.gather`, whichever body the arrays of `reads` are for."""
        addresses = torch.as_tensor(reads.addresses)
        vectors = self.read(addresses.clamp(min=0)) * (addresses >= 0)
        if reads.gates is not None and len(reads.gates):
            vectors = vectors * torch.as_tensor(reads.gates)[torch.as_tensor(reads.fields).long()][:, :1]
        out.copy_(vectors if reads.inverse is None else vectors[torch.as_tensor(reads.inverse).long()])

    def step(self, sums: Sums, keep: float = 1.0) -> None:
        """As `RowStore.step`."""
        noise = self.next_noise()
        if len(sums.rows):
            self._step_torch(torch.as_tensor(sums.rows).long(), torch.as_tensor(sums.gradients), noise, keep)
