"""`Store`: the interface of a tier's memory. A store maps addresses to vectors of D values.

    N lookups of U keys, S lookups that one store serves, k addresses per vector

A tier is a set of keys and the stores that they read. A new format is one file with a subclass and one line in
`trainer.embedding.stores.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

__all__ = ["OptimizerName", "Reads", "Store", "Sums", "Tally"]

OptimizerName = Literal["adagrad", "sgd"]
_STATE_BYTES = 4  # an Adagrad sum


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What one forward pass reads from one store.

    The numba body takes numpy arrays (a conversion takes as long as the kernel of a small batch), among them the lists
    `where` and `members`. On CUDA no list may have a length that depends on the data, so the torch body takes tensors,
    and the address of every lookup, which is negative if the store does not serve the lookup.

    Attributes:
        addresses: (U, k) int32, per key; (N, k) int64, per lookup, in the torch body.
        inverse: (N,) int32, the key of each lookup; None in the torch body.
        where: (S,) int32, ascending: the lookups that the store serves; None for all of them.
        members: (M,) int32, ascending: the keys of these lookups; None for all of them.
        gates: (U,) float32 factors of the vectors; without gates (0,), None in the torch body.
        is_distinct: no two keys share an address.
        is_first: no other store has written the vectors of these lookups, so they may be overwritten.
    """

    addresses: Any
    inverse: Any = None
    where: Any = None
    members: Any = None
    gates: Any = None
    is_distinct: bool = False
    is_first: bool = True


@dataclass(frozen=True, kw_only=True)
class Sums:
    """The gradients of the rows of one store, summed so that each row occurs once.

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
class Tally:
    """Sums per key that the numba body of `Store.sum_gradients` computes in the same pass over the gradient.

    Attributes:
        factor: the factor of the norms.
        scores: (U,) float32; the norm of each lookup's gradient times `factor` is added.
        dots: (U,) float32; the dot product of gradient and looked-up vector is added; (0,) without gates.
        vectors: (N, D) float32, the looked-up vectors; read only with gates.
    """

    factor: np.float32
    scores: npt.NDArray[np.float32]
    dots: npt.NDArray[np.float32]
    vectors: npt.NDArray[np.float32]


class Store(nn.Module, ABC):
    """Maps addresses to vectors of D values, and keeps their optimizer state.

    Parameters of the module learn with the dense part of the model; everything else learns in `learn`.

    Attributes:
        dim: D.
        num_rows: addresses are 0 to `num_rows` - 1.
        precision: the largest error of `write`, relative to the largest magnitude of the vector.
    """

    precision: ClassVar[float]
    dim: int
    num_rows: int

    @classmethod
    @abstractmethod
    def vector_bytes(cls, dim: int) -> int:
        """Bytes of one vector of `dim` values, without optimizer state."""

    @classmethod
    def row_bytes(cls, dim: int, optimizer: OptimizerName) -> int:
        """Bytes of one vector and of its optimizer state."""
        return cls.vector_bytes(dim) + (_STATE_BYTES if optimizer == "adagrad" else 0)

    @classmethod
    def plan(cls, nbytes: int, dim: int, optimizer: OptimizerName) -> int:
        """The number of vectors, optimizer state included, that fit in `nbytes`."""
        return nbytes // cls.row_bytes(dim, optimizer)

    @abstractmethod
    def address(self, keys: Tensor) -> Tensor:
        """The addresses (U, k) of int64 keys (U,); only for a store whose addresses are a function of the key."""

    @abstractmethod
    def gather_add(self, reads: Reads, out: Tensor) -> None:
        """Adds the vectors, times their gates, to the rows of `out` (N, D) float32 that the lookups index."""

    @abstractmethod
    def sum_gradients(self, reads: Reads, gradient: Tensor, tally: Tally | None = None) -> Sums:
        """Sums the gradient (N, D) at the gated vectors by row; the numba body also fills `tally`."""

    @abstractmethod
    def learn(self, sums: Sums) -> None:
        """One optimizer step on the rows with their summed gradients."""

    @abstractmethod
    def read(self, addresses: Tensor) -> Tensor:
        """The vectors (K, D) float32 at addresses (K, k)."""

    @abstractmethod
    def write(
        self, addresses: Tensor, vectors: Tensor, *, state: Tensor | None = None, like: Tensor | None = None
    ) -> None:
        """Overwrites distinct addresses (K, 1) with vectors (K, D) float32, rounded to nearest.

        Args:
            addresses: the addresses to overwrite.
            vectors: their new contents.
            state: (K,) optimizer sums; zeros if None.
            like: the result of `scales` of a store of the same class; copies of its rows stay exact.
        """

    def scales(self, addresses: Tensor) -> Tensor | None:  # noqa: ARG002
        """The argument `like` of `write` that makes copies of the rows at (K, 1) exact; None without scales."""
        return None

    def state_of(self, addresses: Tensor) -> Tensor:
        """The optimizer sums (K,) at addresses (K, 1); zeros if there are none."""
        return torch.zeros(len(addresses), device=addresses.device)

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
