"""`RowStore`: a vector is one row, or consists of parts of k rows; subclasses define the format of a row.

    parts = 1    a vector is a row
    parts = 2    a vector is the left half of one row and the right half of another

An optimizer step is row-wise Adagrad, state += mean(g^2), row -= learning_rate * g / (sqrt(state) + epsilon), or plain
SGD without a state.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.embedding import gathers
from trainer.embedding.backends import Backend, choose_backend
from trainer.embedding.kernels import number_distinct, number_rows
from trainer.embedding.slots import empty_slots
from trainer.embedding.stores.kernels import row_kernels
from trainer.embedding.stores.noise import Noise
from trainer.embedding.stores.registry import DEFAULT_EPSILON, DEFAULT_LEARNING_RATE
from trainer.embedding.stores.store import OptimizerName, Reads, Store, Sums, Tally
from trainer.errors import CheckpointError, PlanError

__all__ = ["Addressing", "RowOptimizer", "RowSizes", "RowStore"]

_NONE = np.empty(0, np.float32)


@dataclass(frozen=True, kw_only=True)
class RowOptimizer:
    """The hyperparameters of the rows' optimizer; the plan's `optimizer` chooses Adagrad or SGD.

    Args:
        learning_rate: more than 0.
        epsilon: added to the root of the Adagrad sum. About as large as the gradients of a rare row, so that the first
            steps of the row are not its largest.
    """

    learning_rate: float = DEFAULT_LEARNING_RATE
    epsilon: float = DEFAULT_EPSILON

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or not self.epsilon > 0:
            raise PlanError(
                f"row optimizer: got learning rate {self.learning_rate}, epsilon {self.epsilon}, expected more than 0"
            )


@dataclass(frozen=True, kw_only=True)
class RowSizes:
    """The sizes of one store of rows.

    Args:
        num_rows: R.
        dim: D.
        optimizer: `adagrad` keeps one float32 per row, `sgd` nothing.
        parts: k, the number of rows that a vector consists of.
        is_padded: whether there is one more row, number R, that stays zero.
        first_row: the number of rows in the preceding stores of the embedding, so that no two rows share random bits.
    """

    num_rows: int
    dim: int
    optimizer: OptimizerName = "adagrad"
    parts: int = 1
    is_padded: bool = False
    first_row: int = 0


class Addressing(Protocol):
    """A function that maps each key to its k addresses."""

    def __call__(self, keys: Tensor, backend: Backend) -> Tensor:
        """The addresses (U, k) of int64 keys (U,)."""
        ...


class RowStore(Store):
    """R rows, and one Adagrad sum per row.

    Args:
        sizes: the sizes of the store.
        optimizer: the hyperparameters of the optimizer.
        initial: the generator of the initial values, uniform within +-sqrt(1 / D) and equal on every device.
        seed: the seed of stochastic rounding.
        addressing: the function behind `address`; None if the caller assigns the rows.
        device: the device of the rows.
        backend: `numba` or `torch`; None for the default of the device.

    Attributes:
        steps: optimizer steps so far, on which stochastic rounding depends.
    """

    values: Tensor
    row_scales: Tensor
    state: Tensor

    def __init__(
        self,
        sizes: RowSizes,
        *,
        optimizer: RowOptimizer,
        initial: torch.Generator,
        seed: int = 0,
        addressing: Addressing | None = None,
        device: torch.device | None = None,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        device = device or torch.device("cpu")
        self.sizes, self.dim, self.num_rows = sizes, sizes.dim, sizes.num_rows
        self._backend = choose_backend(device, backend)
        self._optimizer, self._addressing, self._seed = optimizer, addressing, seed
        self.steps = 0
        self._views: tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.float32]] | None = None
        vectors = torch.empty(sizes.num_rows + sizes.is_padded, sizes.dim)  # (R, D)
        vectors.uniform_(-1, 1, generator=initial)
        vectors *= sizes.dim**-0.5
        vectors[sizes.num_rows :] = 0
        values, scales = self._make(vectors)
        self.register_buffer("values", values.to(device), persistent=False)
        self.register_buffer("row_scales", scales.to(device), persistent=False)
        num_sums = len(vectors) if sizes.optimizer == "adagrad" else 0
        self.register_buffer("state", torch.zeros(num_sums, device=device), persistent=False)

    @property
    def _arrays(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.float32]]:
        """Values, scales and state as numpy arrays."""
        if self._views is None:
            self._views = (_array(self.values), _array(self.row_scales), self.state.numpy())
        return self._views

    def __getstate__(self) -> dict[str, Any]:
        """The state of a copy, without the views of this store's tensors."""
        return {**self.__dict__, "_views": None}

    # ---- the format of a row ----

    @abstractmethod
    def _make(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes vectors (R, D) float32 to nearest; returns values (R, ...) and scales (R,) or (0,)."""

    @abstractmethod
    def _read_rows(self, rows: Tensor) -> Tensor:
        """The rows (K,) as float32 (K, D); the torch body."""

    @abstractmethod
    def _write_rows(self, rows: Tensor, vectors: Tensor, scales: Tensor | None, noise: Noise | None) -> None:
        """Overwrites rows (K,) with vectors (K, D) float32; the torch body.

        Args:
            rows: the rows to overwrite.
            vectors: their new contents.
            scales: (K,) scales that are kept where they still fit; None for new ones.
            noise: the source of stochastic rounding; None to round to nearest.
        """

    @property
    def _gather_kernel(self) -> Any:
        """The numba body of `gather_add`."""
        return row_kernels(self.dim, self.sizes.parts).gather_add

    @property
    def _step_kernel(self) -> Any:
        """The numba body of a step."""
        return row_kernels(self.dim, self.sizes.parts).step

    def _gather_numba(self, reads: Reads, out: Tensor) -> None:
        values, scales, _ = self._arrays
        lists = (reads.addresses, reads.gates, reads.inverse, reads.where)
        self._gather_kernel(values, scales, *lists, reads.is_first, out.numpy())

    def _step_numba(self, rows: npt.NDArray[np.int32], sums: npt.NDArray[np.float32], noise: Noise) -> None:
        """One optimizer step on distinct rows (P,) with summed gradients (P, D)."""
        constants = (np.float32(self._optimizer.learning_rate), np.float32(self._optimizer.epsilon), noise.word)
        self._step_kernel(*self._arrays, rows, noise.first_row, sums, *constants, np.empty(sums.shape[1], np.float32))

    # ---- the store ----

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes of the rows and of the optimizer state."""
        return {"rows": self.values.nbytes + self.row_scales.nbytes, "optimizer": self.state.nbytes}

    def address(self, keys: Tensor) -> Tensor:
        """As `Store.address`."""
        assert self._addressing is not None, "the caller assigns the rows of this store"  # noqa: S101
        return self._addressing(keys, self._backend)

    def gather_add(self, reads: Reads, out: Tensor) -> None:
        """As `Store.gather_add`."""
        if self._backend == "numba":
            self._gather_numba(reads, out)
            return
        is_served = (reads.addresses[:, :1] >= 0).float()  # (N, 1)
        vectors = self.read(reads.addresses.clamp(min=0)) * is_served
        out += vectors if reads.gates is None else vectors * reads.gates[:, None]

    def read(self, addresses: Tensor) -> Tensor:
        """As `Store.read`; bit for bit equal to `gather_add` without gates."""
        parts = [self._read_rows(rows.long()) for rows in addresses.unbind(1)]
        if len(parts) == 1:
            return parts[0]
        bounds = self._bounds()
        return torch.cat([part[:, start:stop] for part, (start, stop) in zip(parts, bounds, strict=True)], dim=1)

    def _bounds(self) -> list[tuple[int, int]]:
        """The columns of each part."""
        parts, dim = self.sizes.parts, self.dim
        return [(part * dim // parts, (part + 1) * dim // parts) for part in range(parts)]

    def write(
        self, addresses: Tensor, vectors: Tensor, *, state: Tensor | None = None, like: Tensor | None = None
    ) -> None:
        """As `Store.write`."""
        rows = addresses[:, 0].long()
        self._write_rows(rows, vectors, like, None)
        if len(self.state):
            self.state[rows] = 0.0 if state is None else state

    def scales(self, addresses: Tensor) -> Tensor | None:
        """As `Store.scales`."""
        return self.row_scales[addresses[:, 0].long()] if len(self.row_scales) else None

    def state_of(self, addresses: Tensor) -> Tensor:
        """As `Store.state_of`."""
        return self.state[addresses[:, 0].long()] if len(self.state) else super().state_of(addresses)

    def sum_gradients(self, reads: Reads, gradient: Tensor, tally: Tally | None = None) -> Sums:
        """As `Store.sum_gradients`."""
        body = self._sum_numba if self._backend == "numba" else self._sum_torch
        return body(reads, gradient, tally)

    def learn(self, sums: Sums) -> None:
        """As `Store.learn`."""
        self.__dict__["steps"] += 1  # past `nn.Module.__setattr__`, which takes longer than a small batch's step
        noise = Noise(self._seed, self.steps, self.sizes.first_row)
        if self._backend == "numba":
            self._step_numba(sums.rows, sums.gradients, noise)
        elif len(sums.rows):
            self._step_torch(sums.rows, sums.gradients, noise)

    def _sum_numba(self, reads: Reads, gradient: Tensor, tally: Tally | None) -> Sums:
        rows, indices = self._index_rows(reads)
        sums, slopes = np.zeros((len(rows), self.dim), np.float32), gradient.numpy()
        chosen = (np.float32(0), _NONE, _NONE, slopes)
        if tally is not None:
            chosen = (tally.factor, tally.scores, tally.dots, tally.vectors)
        merge = row_kernels(self.dim, self.sizes.parts).merge
        merge(slopes, reads.inverse, reads.where, indices, reads.gates, sums, *chosen)
        return Sums(rows=rows, gradients=sums, padding=self.num_rows)

    def _index_rows(self, reads: Reads) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32] | None]:
        """The distinct rows (P,) that were read, and the index of each address among them, (U, k) int32.

        The index is None if every key has a row of its own, whose index is the key's.
        """
        addresses, members = reads.addresses, reads.members
        if members is None:
            return addresses[:, 0], None
        indices = np.empty(addresses.shape, np.int32)
        count = len(members) * addresses.shape[1]
        rows = np.empty(1 + count, np.int32)
        if reads.is_distinct:
            number_distinct(addresses, members, rows[1:], indices)
        else:
            count = number_rows(addresses, members, *empty_slots(count), rows, indices)
        return rows[1 : 1 + count], indices

    def _sum_torch(self, reads: Reads, gradient: Tensor, tally: Tally | None) -> Sums:  # noqa: ARG002
        """The torch body; no tensor has a shape that depends on the data."""
        if reads.gates is not None:
            gradient = gradient * reads.gates[:, None]
        addresses = torch.where(reads.addresses < 0, self.num_rows, reads.addresses)  # (N, k)
        rows, merged = gathers.merge_by_id(addresses.t().reshape(-1), self._by_part(gradient), self.num_rows)
        return Sums(rows=rows, gradients=merged, padding=self.num_rows)

    def _step_torch(self, rows: Tensor, merged: Tensor, noise: Noise) -> None:
        """One optimizer step on rows (K,) with gradients (K, D); rows equal to R are padding and stand at the end."""
        # Padding repeats the first row, which is then written several times with the same values.
        is_row = rows < self.num_rows  # (K,)
        rows = torch.where(is_row, rows, rows[0]).clamp(max=self.num_rows - 1)
        merged = torch.where(is_row[:, None], merged, merged[0])
        merged = torch.where(is_row[0], merged, 0.0)
        learning_rate: Tensor | float = self._optimizer.learning_rate
        if len(self.state):
            stored = self.state[rows] + self._mean_square(merged)  # (K,)
            self.state[rows] = stored
            learning_rate = (self._optimizer.learning_rate / (stored.sqrt() + self._optimizer.epsilon))[:, None]
        scales = self.row_scales[rows] if len(self.row_scales) else None
        self._write_rows(rows, self._read_rows(rows) - merged * learning_rate, scales, noise)

    def _mean_square(self, merged: Tensor) -> Tensor:
        """The increments (K,) of the Adagrad sums for a gradient (K, D)."""
        return merged.square().mean(dim=1)

    def _by_part(self, gradient: Tensor) -> Tensor:
        """The gradients (k N, D) of the rows, part by part; 0 outside the columns of the part."""
        if self.sizes.parts == 1:
            return gradient
        columns = torch.arange(self.dim, device=gradient.device)
        return torch.cat([gradient * ((start <= columns) & (columns < stop)) for start, stop in self._bounds()])

    def scale_initial_values(self, factor: float) -> None:
        """Multiplies every value by `factor`; only for a store that has not been trained yet."""
        scaled = self.row_scales if len(self.row_scales) else self.values
        scaled *= factor

    def tensors(self) -> dict[str, Tensor]:
        """As `Store.tensors`."""
        named = {"values": self.values, "scales": self.row_scales, "state": self.state}
        return {**named, "steps": torch.tensor([self.steps]), "seed": torch.tensor([self._seed])}

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """As `Store.load_tensors`."""
        for name, mine in (("values", self.values), ("scales", self.row_scales), ("state", self.state)):
            loaded = tensors[name]
            if loaded.shape != mine.shape or loaded.dtype != mine.dtype:
                raise CheckpointError(
                    f"{name}: got {tuple(loaded.shape)} {loaded.dtype}, expected {tuple(mine.shape)} {mine.dtype}"
                )
            mine.copy_(loaded)
        self.steps, self._seed = int(tensors["steps"][0]), int(tensors["seed"][0])


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    """The tensor as an array for numba: bfloat16 as uint16."""
    return tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()
