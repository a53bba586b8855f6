"""`HalfWidthRows`: rows of D / 2 float32 values (rounded down), read as vectors of D whose right half is zero."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.embedding.stores.formats import Float32Rows
from trainer.embedding.stores.half_width_kernels import gather
from trainer.embedding.stores.kernels import row_kernels
from trainer.embedding.stores.noise import Noise
from trainer.errors import PlanError

__all__ = ["HalfWidthRows"]


class HalfWidthRows(Float32Rows):
    """Stores the left half of each vector; writes to the right half are dropped, and its gradient has no effect."""

    precision: ClassVar[float] = 1.0

    @classmethod
    def vector_bytes(cls, dim: int) -> int:
        """As `Store.vector_bytes`."""
        return super().vector_bytes(dim // 2)

    def _make(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        if self.dim < 2:
            raise PlanError(f"half_width: got dimension {self.dim}, expected at least 2")
        return super()._make(vectors[:, : self.dim // 2].contiguous())

    def _read_rows(self, rows: Tensor) -> Tensor:
        return torch.nn.functional.pad(self.values[rows], (0, self.dim - self.dim // 2))

    def _write_rows(self, rows: Tensor, vectors: Tensor, scales: Tensor | None, noise: Noise | None) -> None:
        super()._write_rows(rows, vectors[:, : self.dim // 2], scales, noise)

    def _mean_square(self, merged: Tensor) -> Tensor:
        return super()._mean_square(merged[:, : self.dim // 2])

    @property
    def _gather_kernel(self) -> Any:
        return gather

    @property
    def _step_kernel(self) -> Any:
        return row_kernels(self.dim // 2).step

    def _step_numba(
        self, rows: npt.NDArray[np.int32], sums: npt.NDArray[np.float32], noise: Noise, keep: float
    ) -> None:
        super()._step_numba(rows, np.ascontiguousarray(sums[:, : self.dim // 2]), noise, keep)
