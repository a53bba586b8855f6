"""`mde`: larger fields have shorter rows (mixed dimension embeddings, Ginart et al., 2019)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from streams.generator.bisection import bisect
from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.row_tables import Rows, RowTables

__all__ = ["MixedDim", "build", "field_dims"]

_FLOAT_BYTES = 4
_MOST_POWER = 64.0
_ADAM_WORDS = 3  # a weight of the projection and two words of its optimizer state


def field_dims(brief: Brief, power: float) -> list[int]:
    """d_f = D (n_min / n_f)^power, rounded, at least 1."""
    sizes = np.asarray(brief.field_sizes, np.float64)
    return [int(dim) for dim in np.clip(np.round(brief.dim * (sizes.min() / sizes) ** power), 1, brief.dim)]


def _total_bytes(brief: Brief, dims: list[int]) -> int:
    rows = sum(
        (size + 1) * brief.row_bytes(brief.row_format, dim=dim)
        for size, dim in zip(brief.field_sizes, dims, strict=True)
    )
    return rows + _projection_bytes(brief, dims)


def _projection_bytes(brief: Brief, dims: list[int]) -> int:
    return sum(dim * brief.dim * _FLOAT_BYTES * _ADAM_WORDS for dim in dims if dim < brief.dim)


class MixedDim(RowTables):
    """One table per field, with rows of `dims[f]` values and a projection to D that learns with the model.

    Knob: `row_format`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"needs_vocabulary"})

    def __init__(self, brief: Brief, dims: list[int]) -> None:
        super().__init__(
            *(
                Rows(size, brief, dim=dim, row_format=brief.row_format, salt=field)
                for field, (size, dim) in enumerate(zip(brief.field_sizes, dims, strict=True))
            )
        )
        self._first_ids = np.concatenate([[0], np.cumsum(brief.field_sizes)[:-1]])
        seeded = torch.Generator().manual_seed(brief.seed)
        self.projections = nn.ParameterDict()
        for field, dim in enumerate(dims):
            if dim < brief.dim:
                bound = (6 / (dim + brief.dim)) ** 0.5  # Xavier
                start = torch.empty(dim, brief.dim).uniform_(-bound, bound, generator=seeded)
                self.projections[str(field)] = nn.Parameter(start)
        self._projection_bytes = _projection_bytes(brief, dims)

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        local = words.numpy() - self._first_ids  # (B, F)
        vectors = []
        for field, table in enumerate(self.tables):
            short: Tensor = table(np.ascontiguousarray(local[:, field]))  # (B, d_f)
            name = str(field)
            vectors.append(short @ self.projections[name] if name in self.projections else short)
        return torch.stack(vectors, dim=1)

    @property
    def extra_bytes(self) -> int:
        """As `RowTables.extra_bytes`: the projections and their Adam state."""
        return self._projection_bytes


def build(brief: Brief) -> MixedDim | Infeasible:
    """The smallest power that fits; at the largest one, all fields but the smallest have rows of one value."""
    least = _total_bytes(brief, field_dims(brief, _MOST_POWER))
    if least > brief.budget_bytes:
        return Infeasible(f"one value per feature needs {least} bytes, got {brief.budget_bytes}")

    def is_too_large(power: float) -> bool:
        return _total_bytes(brief, field_dims(brief, power)) > brief.budget_bytes

    _, power = bisect(is_too_large, 0.0, _MOST_POWER, num_steps=60)
    return MixedDim(brief, field_dims(brief, power))
