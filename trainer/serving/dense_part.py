"""The dense part of a published model, which torch computes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import nn

from trainer.learning.models import build_model
from trainer.serving.shape import ServedShape

__all__ = ["compute", "load_dense_part", "save_dense_part"]


def save_dense_part(model: nn.Module) -> bytes:
    """The weights, by their torch names, as safetensors."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return safetensors.torch.save(state)


def load_dense_part(shape: ServedShape, data: bytes) -> nn.Module:
    """The model with the weights of `save_dense_part`."""
    model = build_model(shape.model, num_dense=shape.num_dense, num_fields=shape.layout.num_fields, dim=shape.dim)
    model.load_state_dict(safetensors.torch.load(data))
    return model.eval()


@torch.no_grad()
def compute(
    model: nn.Module, dense: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """The logits (B,) of dense (B, M) and vectors (B, F, D)."""
    logits: torch.Tensor = model(torch.from_numpy(np.ascontiguousarray(dense, np.float32)), torch.from_numpy(vectors))
    return logits.numpy()
