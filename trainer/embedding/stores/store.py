"""`Store`: the seam. A store keeps vectors of D numbers under addresses; a tier is one or more stores and its keys.

    N lookups of U keys, S lookups among them that one store serves; k addresses a vector

A new way to keep vectors is one file with a subclass and one line in `trainer.embedding.stores.registry`.
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

    The numba body takes numpy arrays (to make one of a tensor takes as long as a small batch's loop), among them the
    lists `where` and `members`. On CUDA no list may have a length that depends on the data, so the torch body takes
    tensors: an address of every lookup, a negative one where the store does not serve it.

    Attributes:
        addresses: (U, k) int32, of each key; (N, k) int64 in the torch body.
        inverse: (N,) int32, the key of each lookup; None in the torch body.
        where: (S,) int32, ascending: the lookups that the store serves; None for all of them.
        members: (M,) int32, ascending: the keys of these lookups; None for all of them.
        gates: (U,) float32 factors of the vectors; without gates (0,), None in the torch body.
        is_distinct: no two keys share an address.
        is_first: no other store has written these lookups' vectors, so that they may be overwritten.
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
    """The gradients of one store's rows, each row once.

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
    """What the numba body of `Store.sum_gradients` sums for each key while it reads the gradient anyway.

    Attributes:
        factor: of the norms.
        scores: (U,) float32, to which the norm of each lookup's gradient times `factor` is added.
        dots: (U,) float32, to which the gradient times the looked-up vector is added; (0,) without gates.
        vectors: (N, D) float32, the looked-up vectors, where there are gates.
    """

    factor: np.float32
    scores: npt.NDArray[np.float32]
    dots: npt.NDArray[np.float32]
    vectors: npt.NDArray[np.float32]


class Store(nn.Module, ABC):
    """Vectors of D numbers under addresses, their optimizer state included.

    What learns with the dense part of a model is a parameter of the module; everything else learns in `learn`.

    Attributes:
        dim: D.
        num_rows: addresses are 0 to `num_rows` - 1.
        precision: the largest error of `write`, over the largest number of the vector.
    """

    precision: ClassVar[float]
    dim: int
    num_rows: int

    @classmethod
    @abstractmethod
    def vector_bytes(cls, dim: int) -> int:
        """Bytes of one vector of `dim` numbers, without optimizer state."""

    @classmethod
    def row_bytes(cls, dim: int, optimizer: OptimizerName) -> int:
        """Bytes of one vector and of its optimizer state."""
        return cls.vector_bytes(dim) + (_STATE_BYTES if optimizer == "adagrad" else 0)

    @classmethod
    def plan(cls, nbytes: int, dim: int, optimizer: OptimizerName) -> int:
        """How many vectors fit in so many bytes."""
        return nbytes // cls.row_bytes(dim, optimizer)

    @abstractmethod
    def address(self, keys: Tensor) -> Tensor:
        """The addresses (U, k) of int64 keys (U,), for a store whose addresses are a function of the key."""

    @abstractmethod
    def gather_add(self, reads: Reads, out: Tensor) -> None:
        """Adds the vectors, times their gates, to the lookups' rows of `out` (N, D) float32."""

    @abstractmethod
    def sum_gradients(self, reads: Reads, gradient: Tensor, tally: Tally | None = None) -> Sums:
        """The gradient (N, D) at the gated vectors, summed by row; for the numba body also what `tally` asks for."""

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
        """Overwrites distinct addresses (K, 1) with vectors (K, D) float32, to the nearest.

        Args:
            addresses: which.
            vectors: what they hold afterwards.
            state: (K,) optimizer sums; zeros if None.
            like: what `scales` of another store of this class gave: where a vector is a copy of such a row, it stays
                exact.
        """

    def scales(self, addresses: Tensor) -> Tensor | None:  # noqa: ARG002
        """What `write` needs so that a copy of the rows at (K, 1) is exact; None where nothing is needed."""
        return None

    def state_of(self, addresses: Tensor) -> Tensor:
        """The optimizer sums (K,) at addresses (K, 1); zeros if there are none."""
        return torch.zeros(len(addresses), device=addresses.device)

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold."""

    @abstractmethod
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` gave.

        Raises:
            CheckpointError: they are of another size or format.
        """

    @property
    @abstractmethod
    def nbytes(self) -> dict[str, int]:
        """Bytes allocated: `rows` and `optimizer`."""
