"""`Store`: the interface of a tier's memory. A store maps addresses to vectors of D values.

    N lookups of K addresses, k rows per address

A tier is a set of keys and the stores that they read. A new format is one file with a subclass and one line in
`trainer.embedding.stores.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

__all__ = ["OptimizerName", "Reads", "Reduced", "Store", "Sums"]

OptimizerName = Literal["adagrad", "sgd"]
_NO_FIELDS, _NO_GATES = np.empty(0, np.uint8), np.empty((0, 0), np.float32)


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What one forward pass reads from one store.

    The numba body takes numpy arrays (a conversion takes as long as the kernel of a small batch), and K distinct keys.
    On CUDA no list may have a length that depends on the data, so the torch body takes tensors, with an entry for every
    lookup, whose addresses are negative if the store does not serve the lookup.

    Attributes:
        addresses: (K, k) int32; int64 in the torch body.
        fields: (K,) uint8, the field of each key, counted from 0; int64 in the torch body.
        gates: (F, g) float32, the factor of each field and of each of the g parts that the store adds up; without gates
            (0, 0), None in the torch body.
        inverse: (N,) int32, the entry of `addresses` that each lookup reads; None if there is a lookup for each.
    """

    addresses: Any
    fields: Any = field(default_factory=lambda: _NO_FIELDS)
    gates: Any = field(default_factory=lambda: _NO_GATES)
    inverse: Any = None


@dataclass(frozen=True, kw_only=True)
class Sums:
    """The gradients of rows, summed so that each row occurs once.

    Attributes:
        rows: (P,) int32, a numpy array as in `Reads`; int64 in the torch body, where `padding` fills what follows the
            distinct rows.
        gradients: (P, D) float32, likewise.
        padding: R, which is no row.
    """

    rows: Any
    gradients: Any
    padding: int


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """The gradient of one pass at what a store learns.

    Attributes:
        sums: the gradients of the rows, one `Sums` for each memory of the store.
        slopes: (F, g) float32, the gradient at the gates, an array in the numba body; None without gates.
    """

    sums: tuple[Sums, ...]
    slopes: Any = None


class Store(nn.Module, ABC):
    """Maps the addresses of keys to vectors of D values, and trains them.

    Parameters of the module learn with the dense part of the model; everything else learns in `learn`.

    Attributes:
        dim: D.
    """

    dim: int

    @abstractmethod
    def gather(self, reads: Reads, out: Tensor) -> None:
        """Writes the vectors of the lookups, times their gates, to `out` (N, D) float32.

        The torch body adds those that the store serves to `out`, which is zero there.
        """

    @abstractmethod
    def sum_gradients(self, reads: Reads, gradient: Tensor, vectors: Tensor | None = None) -> Reduced:
        """Sums the gradient (N, D) at the gated vectors by row and by gate.

        Args:
            reads: the lookups.
            gradient: the numba body may overwrite it, and return a part of it.
            vectors: (K, D) the vectors at the addresses, times their gates, for the slopes of the gates; None without
                gates or in the torch body.
        """

    @abstractmethod
    def learn(self, sums: tuple[Sums, ...], batch_rows: int) -> None:
        """One optimizer step on the rows with their summed gradients, of a batch of B rows."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The complete state, for a checkpoint."""

    @abstractmethod
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the state from the result of `tensors`.

        Raises:
            CheckpointError: a tensor has another size or format.
        """

    @property
    @abstractmethod
    def nbytes(self) -> dict[str, int]:
        """Bytes allocated: `rows` and `optimizer`."""
