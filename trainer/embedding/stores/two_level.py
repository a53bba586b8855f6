"""`TwoLevelRows`: a vector is the sum of a row of level 1 and of a vector that four rows of level 2 compose.

    level 1    a few rows per field, the key's row by a seeded hash
    level 2    rows that all fields share; quarter b of the vector is quarter b of row h_b(key), b = 0 to 3

R rows make R^4 vectors of level 2, so two keys rarely share all quarters. Each level has a gate for each field.

Two rules keep shared rows from disturbing each other:

- Level 1 learns at .3 of the rate. Each of its rows serves a large part of its field's lookups, so its first steps, on
  the gradients of an untrained model, would take tens of thousands of rows to undo.
- A row of level 2 that a batch reads shrinks before its step, so what former readers left behind fades.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.embedding import gathers
from trainer.embedding.backends import Backend
from trainer.embedding.layout import LEVEL_1_SEED, LEVEL_2_SEEDS, Layout
from trainer.embedding.slots import empty_slots
from trainer.embedding.stores.rows import RowOptimizer, RowSizes, RowStore
from trainer.embedding.stores.store import OptimizerName, Reads, Reduced, Store, Sums
from trainer.embedding.stores.two_level_kernels import hash_keys, number_rows, two_level_kernels

__all__ = ["LEVEL_1_RATE", "PARTS", "TwoLevelRows", "shrink_factor"]

PARTS = 4
LEVEL_1_RATE = 0.3  # times the learning rate of the other rows
_SHRINK, _SHRINK_ROWS = 0.01, 2048  # of a row of level 2 that a batch of 2048 rows reads
_SEEDS = np.array([LEVEL_1_SEED, *LEVEL_2_SEEDS], np.uint64)


def shrink_factor(batch_rows: int) -> float:
    """The factor of the rows of level 2 that a batch of B rows reads.

    The shrinking grows with the root of B, a compromise between a constant and a multiple of B: docs/evaluation.md has
    all three at 128, 512 and 8192 rows.
    """
    return max(0.0, 1 - _SHRINK * (batch_rows / _SHRINK_ROWS) ** 0.5)


class TwoLevelRows(Store):
    """The rows of both levels, in one format.

    Args:
        kind: the class of the rows.
        layout: the numbers of rows; level 2 may have none.
        dim: D.
        row_optimizer: `adagrad` or `sgd`.
        optimizer: the hyperparameters of the optimizer.
        common: further arguments of the rows: `initial`, `seed`, `device` and `backend`.
    """

    def __init__(
        self,
        kind: type[RowStore],
        layout: Layout,
        dim: int,
        *,
        row_optimizer: OptimizerName,
        optimizer: RowOptimizer,
        backend: Backend,
        **common: Any,
    ) -> None:
        super().__init__()
        self.dim, self._layout, self._backend = dim, layout, backend
        self._parts = PARTS if layout.level_2_rows else 0
        first, second = layout.level_1_rows, layout.level_2_rows
        sizes = RowSizes(num_rows=first, dim=dim, optimizer=row_optimizer, first_row=layout.capacity_rows)
        slow = replace(optimizer, learning_rate=LEVEL_1_RATE * optimizer.learning_rate)
        self.level_1 = kind(sizes, optimizer=slow, backend=backend, **common)
        sizes = replace(sizes, num_rows=second, first_row=layout.capacity_rows + first)
        self.level_2 = kind(sizes, optimizer=optimizer, backend=backend, **common)
        self._level_1_rows = np.arange(first, dtype=np.int32)
        self._level_1_fields = np.repeat(np.arange(layout.num_fields, dtype=np.uint8), layout.level_1_per_field)

    @property
    def levels(self) -> dict[str, RowStore]:
        """The rows by name."""
        return {"level_1": self.level_1, "level_2": self.level_2}

    def address(self, keys: Tensor) -> Any:
        """The addresses (K, 1 + 4) of int64 keys (K,), as `Reads` takes them; without level 2 (K, 1).

        Column 0 is a row of level 1, the others are rows of level 2.
        """
        layout = self._layout
        if self._backend == "torch":
            first = gathers.level_rows(keys, int(LEVEL_1_SEED), layout.level_1_per_field, layout.num_fields)[:, None]
            second = gathers.part_rows(keys, [int(seed) for seed in LEVEL_2_SEEDS], layout.level_2_rows)
            return torch.cat([first, second[:, : self._parts]], dim=1)
        addresses = np.empty((len(keys), 1 + self._parts), np.int32)
        words = keys.numpy().view(np.uint64)
        hash_keys(words, layout.level_1_per_field, layout.level_2_rows, _SEEDS, addresses)
        return addresses

    def gather(self, reads: Reads, out: Tensor) -> None:
        """As `Store.gather`."""
        if self._backend == "torch":
            first, second = self._read_levels(reads.addresses)
            gates = reads.gates[reads.fields]  # (N, 2)
            out += (first * gates[:, :1] + second * gates[:, 1:]) * (reads.addresses[:, :1] >= 0)
            return
        tables = (*self.level_1.arrays[:2], *self.level_2.arrays[:2])
        two_level_kernels(self.dim, self._parts).gather(
            *tables, reads.addresses, reads.fields, reads.gates, out.numpy()
        )

    def _read_levels(self, addresses: Tensor) -> tuple[Tensor, Tensor]:
        """The parts (K, D) of both levels at addresses (K, 1 + 4), without gates; the torch body."""
        addresses = addresses.clamp(min=0)
        first = self.level_1.read(addresses[:, :1])
        if not self._parts:
            return first, torch.zeros_like(first)
        parts = [self.level_2.read(column[:, None]) for column in addresses[:, 1:].unbind(1)]
        return first, torch.cat([part[:, one] for part, one in zip(parts, self._columns(), strict=True)], dim=1)

    def _columns(self) -> list[slice]:
        """The columns of each part of level 2."""
        bounds = [part * self.dim // PARTS for part in range(PARTS + 1)]
        return [slice(*pair) for pair in pairwise(bounds)]

    def sum_gradients(self, reads: Reads, gradient: Tensor, vectors: Tensor | None = None) -> Reduced:
        """As `Store.sum_gradients`."""
        if self._backend == "torch":
            return self._sum_torch(reads, gradient)
        assert vectors is not None  # noqa: S101  the caller wants the slopes
        return self._sum_numba(reads, gradient.numpy(), vectors.numpy())

    def _sum_numba(self, reads: Reads, gradient: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32]) -> Reduced:
        level_1, level_2, addresses = self.level_1, self.level_2, reads.addresses
        count = len(addresses) * self._parts
        rows, numbers = np.empty(1 + count, np.int32), np.empty((len(addresses), self._parts), np.int32)
        if count:
            count = number_rows(addresses, *empty_slots(count), rows, numbers)
        first, second = np.zeros((level_1.num_rows, self.dim), np.float32), np.zeros((count, self.dim), np.float32)
        dots = np.zeros(len(reads.gates))
        two_level_kernels(self.dim, self._parts).merge(
            gradient, vectors, addresses, numbers, reads.fields, reads.gates, first, second, dots
        )
        every = Sums(rows=self._level_1_rows, gradients=first, padding=level_1.num_rows)
        read = Sums(rows=rows[1 : 1 + count], gradients=second, padding=level_2.num_rows)
        # The rows of level 1 belong to fields, so the slopes of their gates are cheap; the others are the rest.
        of_first = level_1.gate_sums(every, *self._read_level_1(reads.gates))
        of_second = (dots - reads.gates[:, 0] * of_first) / reads.gates[:, 1]
        return Reduced(sums=(every, read), slopes=np.stack([of_first, of_second.astype(np.float32)], axis=1))

    def _read_level_1(self, gates: npt.NDArray[np.float32]) -> tuple[Reads, npt.NDArray[np.float32]]:
        """The reads of all rows of level 1, and their vectors (R, D) times the gates (F, 2) of their fields."""
        reads = Reads(addresses=self._level_1_rows[:, None], fields=self._level_1_fields, gates=gates)
        vectors = torch.empty(len(self._level_1_rows), self.dim)
        self.level_1.gather(reads, vectors)
        return reads, vectors.numpy()

    def _sum_torch(self, reads: Reads, gradient: Tensor) -> Reduced:
        served = reads.addresses[:, :1] >= 0
        gates = reads.gates[reads.fields]  # (N, 2)
        levels = self._read_levels(reads.addresses)
        dots = torch.stack([(gradient * part * served).sum(dim=1) for part in levels], dim=1)  # (N, 2)
        slopes = torch.zeros_like(reads.gates).index_add_(0, reads.fields, dots)
        sums = [self.level_1.merge(reads.addresses[:, 0], gradient * gates[:, :1])]
        if self._parts:
            quarters = torch.zeros(self._parts, *gradient.shape, device=gradient.device)
            for quarter, columns in zip(quarters, self._columns(), strict=True):
                quarter[:, columns] = (gradient * gates[:, 1:])[:, columns]
            sums.append(self.level_2.merge(reads.addresses[:, 1:].t().reshape(-1), quarters.flatten(0, 1)))
        return Reduced(sums=tuple(sums), slopes=slopes)

    def learn(self, sums: tuple[Sums, ...], batch_rows: int) -> None:
        """As `Store.learn`."""
        self.level_1.step(sums[0])
        if self._parts:
            self.level_2.step(sums[1], shrink_factor(batch_rows))

    def tensors(self) -> dict[str, Tensor]:
        """As `Store.tensors`."""
        return {
            f"{name}.{part}": tensor for name, level in self.levels.items() for part, tensor in level.tensors().items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """As `Store.load_tensors`."""
        for name, level in self.levels.items():
            start = f"{name}."
            level.load_tensors(
                {part.removeprefix(start): tensor for part, tensor in tensors.items() if part.startswith(start)}
            )

    @property
    def nbytes(self) -> dict[str, int]:
        """As `Store.nbytes`."""
        each = [level.nbytes for level in self.levels.values()]
        return {part: sum(one[part] for one in each) for part in ("rows", "optimizer")}
