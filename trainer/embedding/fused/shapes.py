"""The shapes of the fused kernels, and what they pass on to each other from a forward to its backward pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from torch import Tensor

__all__ = ["AHEAD", "KEYS", "MANY", "Entries", "Routed", "Sorted", "Tuning"]

_LEAST_COLUMNS = 4
KEYS = 256  # of a program that routes, hashes or marks them
MANY = 1 << 18  # lookups, from which on long spans pay
AHEAD = 1 << 20  # lookups, from which on the GPU is slower than the host's launches, so that a second stream can pay


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The shapes of the kernels for one D; `benchmarks/fused` times them.

    Attributes:
        columns: D or more, a power of two.
        block: lookups of a program of `gather_kernel`.
        tile: entries that a program adds at once; `tiles` of them make its span.
        warps: of a program that adds, `gather_warps` of one that gathers.
    """

    columns: int
    block: int
    tile: int
    tiles: int
    warps: int
    gather_warps: int = 4

    @classmethod
    def of(cls, dim: int) -> Tuning:
        """The shapes for rows of `dim` values."""
        columns = max(_LEAST_COLUMNS, triton.next_power_of_2(dim))
        return cls(
            columns=columns,
            block=max(8, min(128, 4096 // columns)),
            tile=max(4, min(32, 512 // columns)),
            tiles=16 if columns >= 128 else 4,
            warps=max(1, columns // 128),
        )

    def for_lookups(self, count: int) -> Tuning:
        """The shapes for a batch of so many lookups: long spans leave fewer parts, short ones keep a GPU busy."""
        return replace(self, tiles=2 * self.tiles) if count >= MANY and self.columns >= 128 else self

    @property
    def span(self) -> int:
        """Entries of a program that adds."""
        return self.tile * self.tiles

    @property
    def options(self) -> dict[str, Any]:
        """Of the launch of a kernel that trains."""
        return {"num_warps": self.warps, "enable_fp_fusion": False}


@dataclass(frozen=True, kw_only=True)
class Entries:
    """Sorted entries; `fused.marking` has the shapes."""

    rows: Tensor
    entries: Tensor
    marks: Tensor
    fields: Tensor

    @classmethod
    def empty(cls, count: int, block: int, device: torch.device) -> Entries:
        """Entries to be filled, rounded up to whole blocks."""
        size = triton.cdiv(count, block) * block
        return cls(
            rows=torch.empty(size, dtype=torch.int32, device=device),
            entries=torch.empty(size, dtype=torch.int32, device=device),
            marks=torch.empty(size, dtype=torch.uint8, device=device),
            fields=torch.empty(size, dtype=torch.uint8, device=device),
        )

    @property
    def arrays(self) -> tuple[Tensor, ...]:
        """The four arrays as a kernel takes them."""
        return self.rows, self.entries, self.marks, self.fields


@dataclass(frozen=True, kw_only=True)
class Sorted:
    """The entries of a pass of an adaptive embedding.

    Attributes:
        ids: (N,) int64, sorted.
        entries: of the ids.
        quarters: of the quarters; empty without level 2.
    """

    ids: Tensor
    entries: Entries
    quarters: Entries

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All arrays."""
        return self.ids, *self.entries.arrays, *self.quarters.arrays


@dataclass(frozen=True, kw_only=True)
class Routed:
    """Where the lookups of one pass lead; `fused.routing` has the shapes.

    Attributes:
        rows: (N,) int32.
        fields: (N,) uint8.
        quarters: (N, 4) int32, (0, 4) without level 2.
        ids: (N,) int64.
        gates: (F, 3) float32, a copy of the gates at the lookup.
        by_row: the sorted entries, if a second stream sorts them ahead: on CUDA, from `AHEAD` lookups on.
    """

    rows: Tensor
    fields: Tensor
    quarters: Tensor
    ids: Tensor
    gates: Tensor
    by_row: Sorted | None = None
