"""Learned gates: for each field, one scalar for each part that a vector is the sum of.

    part 0    the unique row of a hot key
    part 1    the row of level 1 of any other key
    part 2    its quarters of level 2

A gate weighs a part against the others, field by field. It starts at 1 and learns with its own Adagrad. It stays within
[.01, 10], that of unique rows within [.1, 10], so that a promotion can keep the gated vector: it divides the vector by
the new gate.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trainer.embedding.kernels import step_gates
from trainer.errors import CheckpointError

__all__ = ["Gate"]

Gates = npt.NDArray[np.float32]
_PARTS = 3
_LEARNING_RATE, _EPSILON = np.float32(0.1), np.float32(1e-6)
_RANGE = np.array([[0.1, 0.01, 0.01], [10.0, 10.0, 10.0]], np.float32)


class Gate(nn.Module):
    """The gates of all fields, and their Adagrad sums.

    Args:
        num_fields: F.
        device: the device of the lookups.
    """

    values: Tensor
    state: Tensor

    def __init__(self, num_fields: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("values", torch.ones(num_fields, _PARTS, device=device), persistent=False)
        self.register_buffer("state", torch.zeros(num_fields, _PARTS, device=device), persistent=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the gates and of their sums."""
        return self.values.nbytes + self.state.nbytes

    @property
    def unique(self) -> Tensor:
        """A copy of the gates (F, 1) of unique rows, which later steps do not change."""
        return self.values[:, :1].clone()

    @property
    def shared(self) -> Tensor:
        """A copy of the gates (F, 2) of both levels."""
        return self.values[:, 1:].clone()

    def arrays(self) -> tuple[Gates, Gates]:
        """`unique` and `shared` as arrays, on a CPU; without torch calls, which take as long as a small kernel."""
        values = self.values.numpy().copy()
        return values[:, :1], values[:, 1:]

    @property
    def constants(self) -> tuple[float, float, float, float, float]:
        """The least gate of unique rows, the least of the others, the most of all; learning rate and epsilon."""
        return float(_RANGE[0, 0]), float(_RANGE[0, 1]), float(_RANGE[1, 0]), float(_LEARNING_RATE), float(_EPSILON)

    @torch.no_grad()
    def learn(self, slopes: Tensor | Gates) -> None:
        """One Adagrad step with the gradient (F, 3), an array in the numba body."""
        if isinstance(slopes, np.ndarray):
            step_gates(self.values.numpy(), self.state.numpy(), slopes, _LEARNING_RATE, _EPSILON, _RANGE)
            return
        self.state += slopes.square()
        self.values -= float(_LEARNING_RATE) * slopes / (self.state.sqrt() + float(_EPSILON))
        for column, (least, most) in enumerate(_RANGE.T.tolist()):  # numbers: a tensor would be copied to the device
            self.values[:, column].clamp_(least, most)

    def tensors(self) -> dict[str, Tensor]:
        """The complete state, for a checkpoint."""
        return {"gate": self.values, "gate_state": self.state}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the state from the result of `tensors`.

        Raises:
            CheckpointError: a tensor is missing or has another size.
        """
        for name, mine in self.tensors().items():
            if name not in tensors or tensors[name].shape != mine.shape:
                raise CheckpointError(f"{name}: the checkpoint has none of shape {tuple(mine.shape)}")
            mine.copy_(tensors[name])
