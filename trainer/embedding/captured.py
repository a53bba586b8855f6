"""`Capturing`: rows are no parameters, so `backward` captures the gradient at the vectors, to be applied on request.

    forward: look up, gather  ->  vectors (N, D)  ->  model, loss  ->  backward: gradient (N, D), captured

The one body of it, for the trainer's embeddings and for `evaluate`'s methods alike.

N lookups, P distinct rows of a store, K distinct keys, D numbers a row, F fields
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from trainer.embedding import gathers
from trainer.embedding.backends import Backend
from trainer.embedding.lookup import distinct
from trainer.embedding.stores.store import Sums

__all__ = ["Captured", "Capturing", "Touched", "add_up"]

L = TypeVar("L")  # what was looked up
Captured = tuple[L, Tensor, Tensor | None]


class _Gather(torch.autograd.Function):
    """Gathers, and hands the gradient at the gathered vectors to the embedding instead of to a parameter."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, embedding: Capturing[L], lookup: L) -> Tensor:  # noqa: ARG004
        """The vectors (N, D); `anchor` only makes autograd ask for a gradient."""
        ctx.embedding, ctx.lookup = embedding, lookup
        vectors = embedding.gather(lookup)
        if embedding.keeps_vectors:
            ctx.save_for_backward(vectors)
        return vectors

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        """Keeps the gradient (N, D)."""
        vectors = ctx.saved_tensors[0].detach() if ctx.embedding.keeps_vectors else None
        ctx.embedding.capture(ctx.lookup, gradients[0].detach().contiguous(), vectors)
        return None, None, None


class Capturing(nn.Module, Generic[L]):
    """Captures the gradients at what it gathers.

    Attributes:
        anchor: a scalar that makes autograd ask for the gradient of what is gathered.
        keeps_vectors: whether the gathered vectors are kept for the update, too.
    """

    keeps_vectors = False

    def __init__(self) -> None:
        super().__init__()
        self.anchor = torch.zeros((), requires_grad=True)
        self._captured: list[Captured[L]] = []

    def gather(self, lookup: L) -> Tensor:
        """The vectors (N, D)."""
        raise NotImplementedError

    def gather_learning(self, lookup: L) -> Tensor:
        """Likewise, such that `backward` captures their gradient if gradients are enabled."""
        if not torch.is_grad_enabled():
            return self.gather(lookup)
        vectors: Tensor = _Gather.apply(self.anchor, self, lookup)
        return vectors

    @torch.no_grad()
    def capture(self, lookup: L, gradient: Tensor, vectors: Tensor | None) -> None:
        """Keeps the gradient (N, D) of a lookup, and its vectors (N, D) if they are kept; `backward` calls this."""
        self._captured.append((lookup, gradient, vectors))

    def take_captured(self) -> list[Captured[L]]:
        """What was captured since the last call, in order."""
        captured, self._captured = self._captured, []
        return captured


@dataclass(frozen=True, kw_only=True)
class Touched:
    """The gradients of one or more passes, summed by row.

    Attributes:
        sums: of each store that was read, by its name.
        keys: (K,) int64, distinct, but for 0, which is no key; (0,) from an embedding without importance.
        scores: (K,) float32, what each key mattered.
        slopes: (F, 2) float32, of the gates; None without gates.
    """

    sums: Mapping[str, Sums]
    keys: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    scores: Tensor = field(default_factory=lambda: torch.empty(0))
    slopes: Tensor | None = None


def add_up(parts: list[Touched], backend: Backend) -> Touched:
    """The sum of several passes' gradients; waits for the device if there is more than one."""
    if len(parts) == 1:
        return parts[0]
    merge = _add_up_numba if backend == "numba" else _add_up_torch
    sums = {}
    for name in parts[0].sums:
        each = [part.sums[name] for part in parts]
        found, added = merge(
            [torch.as_tensor(one.rows) for one in each],
            [torch.as_tensor(one.gradients) for one in each],
            each[0].padding,
        )
        rows, gradients = (found.numpy(), added.numpy()) if backend == "numba" else (found, added)
        sums[name] = Sums(rows=rows, gradients=gradients, padding=each[0].padding)
    keys, scores = merge([part.keys for part in parts], [part.scores for part in parts], 0)
    slopes = [part.slopes for part in parts if part.slopes is not None]
    total = torch.stack(slopes).sum(dim=0) if slopes else None
    return Touched(sums=sums, keys=keys, scores=scores, slopes=total)


def _add_up_numba(ids: list[Tensor], numbers: list[Tensor], padding: int) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """Distinct ids, and the sum of each one's numbers."""
    every = torch.cat(ids)
    unique, inverse = distinct(every.long().numpy().view(np.uint64))
    sums = torch.zeros(len(unique), *numbers[0].shape[1:])
    sums.index_add_(0, torch.from_numpy(inverse), torch.cat(numbers))
    return torch.from_numpy(unique.view(np.int64)).to(every.dtype), sums


def _add_up_torch(ids: list[Tensor], numbers: list[Tensor], padding: int) -> tuple[Tensor, Tensor]:
    """Likewise, without the padding."""
    every, sums = gathers.merge_by_id(torch.cat(ids), torch.cat(numbers), padding)
    return every[every != padding], sums[every != padding]
