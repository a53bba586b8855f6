"""`Capturing`: captures in `backward` the gradient at the looked-up vectors, because rows are not parameters.

    forward: look up, gather  ->  vectors (N, D)  ->  model, loss  ->  backward: gradient (N, D), captured

The trainer's embeddings and the methods of `evaluate` share it.

N lookups, P distinct rows of a store, K distinct keys, D values a row, F fields
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from trainer.embedding import gathers
from trainer.embedding.backends import Backend
from trainer.embedding.lookup import distinct
from trainer.embedding.stores.store import Sums
from trainer.errors import GradientError

__all__ = ["Captured", "Capturing", "Touched", "add_up"]

L = TypeVar("L")  # what was looked up
Captured = tuple[L, Tensor]


class _Gather(torch.autograd.Function):
    """Gathers vectors, and passes their gradient to the embedding instead of to a parameter."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, embedding: Capturing[L], lookup: L) -> Tensor:  # noqa: ARG004
        """The vectors (N, D); `anchor` only makes autograd call `backward`."""
        ctx.embedding, ctx.lookup = embedding, lookup
        return embedding.gather(lookup)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        """Captures the gradient (N, D)."""
        ctx.embedding.capture(ctx.lookup, gradients[0].detach().contiguous())
        return None, None, None


class Capturing(nn.Module, Generic[L]):
    """A module that captures the gradients at the vectors it gathers.

    Attributes:
        anchor: a scalar that requires a gradient, so that autograd calls `backward`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.anchor = torch.zeros((), requires_grad=True)
        self._captured: list[Captured[L]] = []

    def gather(self, lookup: L) -> Tensor:
        """The vectors (N, D)."""
        raise NotImplementedError

    def gather_learning(self, lookup: L) -> Tensor:
        """The vectors (N, D); `backward` captures their gradient if gradients are enabled."""
        if not torch.is_grad_enabled():
            return self.gather(lookup)
        vectors: Tensor = _Gather.apply(self.anchor, self, lookup)
        return vectors

    @torch.no_grad()
    def capture(self, lookup: L, gradient: Tensor) -> None:
        """Keeps the gradient (N, D) of a lookup; `backward` calls this."""
        self._captured.append((lookup, gradient))

    def take_captured(self) -> list[Captured[L]]:
        """Returns the captures since the last call in order, and clears them."""
        captured, self._captured = self._captured, []
        return captured


@dataclass(frozen=True, kw_only=True)
class Touched:
    """The gradients of one or more passes, summed by row.

    Attributes:
        sums: the row gradients of each store that was read, by name, one for each memory of the store.
        keys: (K,) int64, distinct except for 0, which is padding; (0,) from an embedding without importance.
        scores: (K,) float32, the importance of each key.
        slopes: (F, 3) float32, the gradient at the gates, an array in the numba body; None without gates.
        batch_rows: B, the rows of all passes.
        counts: (R,) the number of keys of each click record, if there are several; keys are distinct within a record.
    """

    sums: Mapping[str, tuple[Sums, ...]]
    keys: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    scores: Tensor = field(default_factory=lambda: torch.empty(0))
    slopes: Any = None
    batch_rows: int = 0
    counts: Tensor | None = None

    def if_accepted(self, accept: Tensor) -> Touched:
        """The same if the bool tensor () is true, else gradients that change nothing; the torch body."""

        def masked(sums: Sums) -> Sums:
            return replace(sums, rows=torch.where(accept, sums.rows, sums.padding))

        slopes = self.slopes
        return replace(
            self,
            sums={name: tuple(map(masked, parts)) for name, parts in self.sums.items()},
            slopes=None if slopes is None else torch.where(accept, slopes, 0.0),
        )

    def divided_by(self, scale: float) -> Touched:
        """All gradients and scores divided by the scale of a loss."""
        sums = {
            name: tuple(replace(one, gradients=one.gradients / scale) for one in each)
            for name, each in self.sums.items()
        }
        slopes = None if self.slopes is None else self.slopes / scale
        return replace(self, sums=sums, scores=self.scores / scale, slopes=slopes)


def add_up(parts: list[Touched], backend: Backend) -> Touched:
    """Sums the gradients of several passes; synchronises with the device if there is more than one.

    Raises:
        GradientError: one of several passes has several click records.
    """
    if len(parts) == 1:
        return parts[0]
    if any(part.counts is not None for part in parts):
        raise GradientError("several passes, one of several click records: call apply_gradients after each such pass")
    merge = _add_up_numba if backend == "numba" else _add_up_torch

    def merged(each: Sequence[Sums]) -> Sums:
        rows, gradients = merge(
            [torch.as_tensor(one.rows) for one in each],
            [torch.as_tensor(one.gradients) for one in each],
            each[0].padding,
        )
        is_numpy = backend == "numba"
        return Sums(
            rows=rows.numpy() if is_numpy else rows,
            gradients=gradients.numpy() if is_numpy else gradients,
            padding=each[0].padding,
        )

    sums = {name: tuple(map(merged, zip(*(part.sums[name] for part in parts), strict=True))) for name in parts[0].sums}
    keys, scores = merge([part.keys for part in parts], [part.scores for part in parts], 0)
    slopes = [part.slopes for part in parts if part.slopes is not None]
    total = sum(slopes[1:], slopes[0]) if slopes else None
    return Touched(sums=sums, keys=keys, scores=scores, slopes=total, batch_rows=sum(part.batch_rows for part in parts))


def _add_up_numba(ids: list[Tensor], values: list[Tensor], padding: int) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """The distinct ids, and the sum of the values of each."""
    every = torch.cat(ids)
    unique, inverse = distinct(every.long().numpy().view(np.uint64))
    sums = torch.zeros(len(unique), *values[0].shape[1:])
    sums.index_add_(0, torch.from_numpy(inverse), torch.cat(values))
    return torch.from_numpy(unique.view(np.int64)).to(every.dtype), sums


def _add_up_torch(ids: list[Tensor], values: list[Tensor], padding: int) -> tuple[Tensor, Tensor]:
    """As `_add_up_numba`, with the padding removed."""
    every, sums = gathers.merge_by_id(torch.cat(ids), torch.cat(values), padding)
    return every[every != padding], sums[every != padding]
