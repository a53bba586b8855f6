"""The three models of the CAFE paper: DLRM, WDL and DCN.

Each maps dense features (B, M) and embedding vectors (B, F, D) to logits (B,); M may be 0. The layer sizes are CAFE's
(SIGMOD'24, section 5.1, and its published code).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from trainer.errors import PlanError

__all__ = ["DCN", "DLRM", "MODELS", "WDL", "build_model", "transform_dense"]


def transform_dense(dense: Tensor) -> Tensor:
    """Returns log(x + 1), with 0 in the positions of missing, infinite and negative values."""
    return torch.nan_to_num(dense, nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0).log1p()


def _mlp(sizes: Sequence[int], *, ends_linear: bool) -> nn.Sequential:
    """Returns linear layers with a ReLU after each; `ends_linear` omits the last ReLU."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(sizes):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*(layers[:-1] if ends_linear else layers))


class DLRM(nn.Module):
    """The bottom MLP embeds the dense features; the top MLP reads its output and all pairwise dot products.

    A single vector (one field, no dense feature) has no pair, so the top MLP reads the vector itself.
    """

    def __init__(
        self,
        *,
        num_dense: int,
        num_fields: int,
        dim: int,
        bottom: Sequence[int] = (512, 256, 64),
        top: Sequence[int] = (512, 256),
    ) -> None:
        super().__init__()
        self.bottom = _mlp([num_dense, *bottom, dim], ends_linear=False) if num_dense else None
        num_vectors = num_fields + (self.bottom is not None)
        upper = torch.triu_indices(num_vectors, num_vectors, offset=1)
        self.register_buffer("pairs", upper[0] * num_vectors + upper[1], persistent=False)  # (P,)
        num_dots = upper.shape[1]
        self.top = _mlp([num_dots + (dim if self.bottom or not num_dots else 0), *top, 1], ends_linear=True)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Returns logits (B,)."""
        parts = []
        if self.bottom is not None:
            base = self.bottom(transform_dense(dense))  # (B, D)
            vectors = torch.cat([base[:, None], vectors], dim=1)  # (B, 1 + F, D)
            parts.append(base)
        elif vectors.shape[1] == 1:
            parts.append(vectors[:, 0])
        dots = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)  # (B, (1 + F)^2)
        parts.append(dots.index_select(1, self.get_buffer("pairs")))  # (B, P)
        logits: Tensor = self.top(torch.cat(parts, dim=1)).squeeze(1)
        return logits


class WDL(nn.Module):
    """Wide and deep: the sum of a linear model and an MLP, both over dense features and vectors."""

    def __init__(self, *, num_dense: int, num_fields: int, dim: int, deep: Sequence[int] = (256, 256, 256)) -> None:
        super().__init__()
        width = num_dense + num_fields * dim
        self.wide = nn.Linear(width, 1)
        self.deep = _mlp([width, *deep, 1], ends_linear=True)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Returns logits (B,)."""
        inputs = torch.cat([transform_dense(dense), vectors.flatten(1)], dim=1)  # (B, M + F D)
        logits: Tensor = (self.wide(inputs) + self.deep(inputs)).squeeze(1)
        return logits


class DCN(nn.Module):
    """Cross layers x0 (x w) + b + x and an MLP, joined by a linear layer."""

    def __init__(
        self,
        *,
        num_dense: int,
        num_fields: int,
        dim: int,
        num_cross_layers: int = 3,
        deep: Sequence[int] = (256, 256, 256),
    ) -> None:
        super().__init__()
        width = num_dense + num_fields * dim
        self.crossings = nn.ModuleList(nn.Linear(width, 1, bias=False) for _ in range(num_cross_layers))
        self.biases = nn.ParameterList(torch.zeros(width) for _ in range(num_cross_layers))
        self.deep = _mlp([width, *deep], ends_linear=False)
        self.join = nn.Linear(width + deep[-1], 1)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Returns logits (B,)."""
        inputs = torch.cat([transform_dense(dense), vectors.flatten(1)], dim=1)  # (B, W)
        crossed = inputs
        for weigh, bias in zip(self.crossings, self.biases, strict=True):
            crossed = inputs * weigh(crossed) + bias + crossed
        logits: Tensor = self.join(torch.cat([crossed, self.deep(inputs)], dim=1)).squeeze(1)
        return logits


MODELS: dict[str, type[DLRM] | type[WDL] | type[DCN]] = {"dlrm": DLRM, "wdl": WDL, "dcn": DCN}


def build_model(name: str, *, num_dense: int, num_fields: int, dim: int, seed: int = 0) -> nn.Module:
    """Returns the named model with the paper's layer sizes; its initial weights depend only on the seed.

    Raises:
        PlanError: no model has this name.
    """
    if name not in MODELS:
        raise PlanError(f"model {name!r}: expected one of {', '.join(MODELS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](num_dense=num_dense, num_fields=num_fields, dim=dim)
