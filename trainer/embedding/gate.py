"""Learned gates: for each field, one scalar multiplies its shared vectors and another one its unique vectors.

A gate weighs the two tiers against each other. It starts at 1, learns with its own Adagrad, and stays within [.1, 10],
so that a promotion can keep the gated vector: it multiplies the copied row by the old gate over the new one.

    F fields, U distinct keys of a lookup (N on CUDA)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.embedding.gathers import field_indices
from trainer.errors import CheckpointError

__all__ = ["Gate", "Gated"]

_TIERS = 2  # shared, unique
_LEARNING_RATE, _EPSILON = 0.01, 1e-6
_LEAST, _MOST = 0.1, 10.0


@dataclass(frozen=True)
class Gated:
    """The gates of a lookup's keys.

    Attributes:
        indices: (U,) int64, the index of the gate: twice the field, plus 1 for a unique row.
        factors: (U,) float32, the value of the gate.
    """

    indices: Tensor
    factors: Tensor


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
        self.register_buffer("values", torch.ones(num_fields, _TIERS, device=device), persistent=False)
        self.register_buffer("state", torch.zeros(num_fields, _TIERS, device=device), persistent=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the gates and of their sums."""
        return self.values.nbytes + self.state.nbytes

    def of(self, keys: Tensor, is_hot: Tensor) -> Gated:
        """The gates of (U,) int64 keys; `is_hot` (U,) tells which have a unique row."""
        fields = field_indices(keys, len(self.values))
        indices = fields * _TIERS + is_hot.long()
        return Gated(indices, self.values.view(-1)[indices])

    def slopes(self, gated: Gated, dots: Tensor) -> Tensor:
        """The gradient (F, 2) at the gates; `dots` (U,) are the sums of gradient times gated vector, per key."""
        flat = torch.zeros_like(self.values).view(-1).index_add_(0, gated.indices, dots / gated.factors)
        return flat.view(-1, _TIERS)

    def learn(self, slopes: Tensor) -> None:
        """One Adagrad step with the gradient (F, 2)."""
        self.state += slopes.square()
        self.values -= _LEARNING_RATE * slopes / (self.state.sqrt() + _EPSILON)
        self.values.clamp_(_LEAST, _MOST)

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
