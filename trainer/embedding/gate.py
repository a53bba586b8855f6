"""A learned gate: a scalar for each field's shared vectors and one for its unique ones, which they are multiplied by.

It says how much they are to be believed. It begins at 1, learns by an Adagrad of its
own, and stays within [.1, 10], so that a promotion can always keep the gated vector: the row copied is multiplied by
the old gate over the new one.

    F fields, U distinct keys of a lookup (N on CUDA)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.errors import CheckpointError

__all__ = ["Gate", "Gated"]

_TIERS = 2  # shared, unique
_RATE, _EPSILON = 0.01, 1e-6
_LEAST, _MOST = 0.1, 10.0


@dataclass(frozen=True)
class Gated:
    """The gates of a lookup's keys.

    Attributes:
        places: (U,) int64, which gate: twice the field, and 1 more for a unique row.
        factors: (U,) float32, what it is.
    """

    places: Tensor
    factors: Tensor


class Gate(nn.Module):
    """The gates of all fields, and their Adagrad sums.

    Args:
        num_fields: F.
        device: where lookups happen.
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
        """The gates of (U,) int64 keys, in a unique row or not."""
        fields = ((keys >> 56 & 0xFF) - 1).clamp(0, len(self.values) - 1)
        places = fields * _TIERS + is_hot.long()
        return Gated(places, self.values.view(-1)[places])

    def slopes(self, gated: Gated, dots: Tensor) -> Tensor:
        """The gradient (F, 2) at the gates; dots (U,): the gradient at a key's gated vectors times these, summed."""
        return torch.zeros_like(self.values).view(-1).index_add_(0, gated.places, dots / gated.factors).view(-1, _TIERS)

    def learn(self, slopes: Tensor) -> None:
        """One step with the gradient (F, 2)."""
        self.state += slopes.square()
        self.values -= _RATE * slopes / (self.state.sqrt() + _EPSILON)
        self.values.clamp_(_LEAST, _MOST)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold."""
        return {"gate": self.values, "gate_state": self.state}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` gave.

        Raises:
            CheckpointError: there is no gate, or one of another size.
        """
        for name, mine in self.tensors().items():
            if name not in tensors or tensors[name].shape != mine.shape:
                raise CheckpointError(f"{name}: the checkpoint has none of shape {tuple(mine.shape)}")
            mine.copy_(tensors[name])
