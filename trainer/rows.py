"""The rows of an embedding in float32, their optimizer, and nothing of what the rows mean.

This is the seam for other row formats (bfloat16, int8 with a scale a row): a format is how rows are gathered, read,
written and updated, in the numba and in the torch body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from trainer import gathers, kernels
from trainer.errors import PlanError
from trainer.lookup import Lookup
from trainer.router import Backend, choose_backend
from trainer.sizing import EmbeddingPlan

__all__ = ["RowOptimizer", "RowTable"]


@dataclass(frozen=True, kw_only=True)
class RowOptimizer:
    """How touched rows learn; whether there is a state is the plan's `optimizer`.

    Args:
        rate: learning rate, more than 0.
        epsilon: added to Adagrad's root.
    """

    rate: float = 0.05
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        if not self.rate > 0 or not self.epsilon > 0:
            raise PlanError(f"row optimizer: got rate {self.rate}, epsilon {self.epsilon}, expected more than 0")


class RowTable(nn.Module):
    """(R, D) float32 rows, the last of them zero for ever, and one Adagrad sum a row.

    Args:
        plan: sizes and optimizer.
        optimizer: its constants.
        seed: of the first values, uniform within +-sqrt(1 / R), the same on every device.
        device: where the rows are.
        backend: `numba` or `torch`; None for the device's own.
    """

    values: Tensor
    state: Tensor

    def __init__(
        self,
        plan: EmbeddingPlan,
        *,
        optimizer: RowOptimizer,
        seed: int = 0,
        device: torch.device | None = None,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        device = device or torch.device("cpu")
        self._backend = choose_backend(device, backend)
        self._optimizer = optimizer
        self._has_state = plan.optimizer == "adagrad"
        self._padding = plan.layout.padding_row
        num_rows = plan.layout.num_rows
        values = torch.empty(num_rows, plan.dim)  # (R, D)
        values.uniform_(-1, 1, generator=torch.Generator().manual_seed(seed)).mul_(num_rows**-0.5)
        values[self._padding] = 0
        self.register_buffer("values", values.to(device))
        self.register_buffer("state", torch.zeros(num_rows if self._has_state else 0, device=device))

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes of the rows and of the optimizer's state."""
        return {"rows": self.values.nbytes, "optimizer": self.state.nbytes}

    def gather(self, lookup: Lookup) -> Tensor:
        """The looked-up vectors, (N, D)."""
        if lookup.inverse is None:
            return self.read(lookup.first, lookup.second)
        out = torch.empty(len(lookup.inverse), self.values.shape[1])
        kernels.gather(
            self.values.numpy(),
            lookup.first.numpy(),
            lookup.second.numpy(),
            self._padding,
            lookup.inverse.numpy(),
            out.numpy(),
        )
        return out

    def read(self, first: Tensor, second: Tensor) -> Tensor:
        """The vectors of (U,) routes, (U, D): bit for bit what `gather` gives."""
        return gathers.gather_rows(self.values, first.long(), second.long())

    def write(self, rows: Tensor, vectors: Tensor, state: Tensor) -> None:
        """Overwrites distinct rows (K,) with vectors (K, D) and Adagrad sums (K,)."""
        self.values[rows] = vectors
        if self._has_state:
            self.state[rows] = state

    def read_state(self, rows: Tensor) -> Tensor:
        """The Adagrad sums of rows (K,), zeros if there are none."""
        return self.state[rows] if self._has_state else torch.zeros(len(rows), device=self.values.device)

    def update(self, rows: Tensor, merged: Tensor) -> None:
        """One optimizer step on rows (K,) with summed gradients (K, D); equal rows only with zero gradients."""
        rate, epsilon = self._optimizer.rate, self._optimizer.epsilon
        if self._backend == "torch":
            if self._has_state:
                gathers.adagrad_step(self.values, self.state, rows, merged, rate, epsilon)
            else:
                self.values[rows] -= rate * merged
        elif self._has_state:
            kernels.adagrad(
                self.values.numpy(),
                self.state.numpy(),
                rows.numpy(),
                merged.numpy(),
                np.float32(rate),
                np.float32(epsilon),
            )
        else:
            kernels.sgd(self.values.numpy(), rows.numpy(), merged.numpy(), np.float32(rate))
