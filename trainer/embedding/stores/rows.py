"""`RowStore`: a vector is a row; subclasses define the format of a row.

An optimizer step is row-wise Adagrad, state += mean(g^2), row -= learning_rate * g / (sqrt(state) + epsilon), or plain
SGD without a state.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.embedding import gathers
from trainer.embedding.backends import Backend, backend_of_tables, choose_backend
from trainer.embedding.stores.kernels import row_kernels
from trainer.embedding.stores.noise import Noise
from trainer.embedding.stores.registry import DEFAULT_EPSILON, DEFAULT_LEARNING_RATE
from trainer.embedding.stores.store import OptimizerName, Reads, Reduced, Store, Sums
from trainer.errors import CheckpointError, PlanError

__all__ = ["RowOptimizer", "RowSizes", "RowStore"]

_NONE = np.empty(0, np.float32)
_STATE_BYTES = 4  # an Adagrad sum


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
        is_padded: whether there is one more row, number R, that stays zero.
        first_row: the number of rows in the preceding stores of the embedding, so that no two rows share random bits.
    """

    num_rows: int
    dim: int
    optimizer: OptimizerName = "adagrad"
    is_padded: bool = False
    first_row: int = 0


class RowStore(Store):
    """R rows, and one Adagrad sum per row.

    Args:
        sizes: the sizes of the store.
        optimizer: the hyperparameters of the optimizer.
        initial: the generator of the initial values, uniform within +-sqrt(1 / D) and equal on every device.
        seed: the seed of stochastic rounding.
        device: the device of the rows.
        backend: `numba` or `torch`; None for the default of the device.

    Attributes:
        num_rows: addresses are 0 to `num_rows` - 1; the caller assigns them.
        precision: the largest error of `write`, relative to the largest magnitude of the vector.
        steps: optimizer steps so far, on which stochastic rounding depends.
    """

    precision: ClassVar[float]
    num_rows: int
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
        device: torch.device | None = None,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        device = device or torch.device("cpu")
        self.sizes, self.dim, self.num_rows = sizes, sizes.dim, sizes.num_rows
        self._backend = backend_of_tables(choose_backend(device, backend))
        self.optimizer, self._seed = optimizer, seed
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
    def arrays(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.float32]]:
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

    @classmethod
    @abstractmethod
    def vector_bytes(cls, dim: int) -> int:
        """Bytes of one row of `dim` values, without optimizer state."""

    @property
    def _gather_kernel(self) -> Any:
        """The numba body of `gather`."""
        return row_kernels(self.dim).gather

    @property
    def _step_kernel(self) -> Any:
        """The numba body of a step."""
        return row_kernels(self.dim).step

    def _step_numba(
        self, rows: npt.NDArray[np.int32], sums: npt.NDArray[np.float32], noise: Noise, keep: float
    ) -> None:
        """One optimizer step on distinct rows (P,) with summed gradients (P, D)."""
        optimizer, line = self.optimizer, np.empty(sums.shape[1], np.float32)
        factors = (np.float32(keep), np.float32(optimizer.learning_rate), np.float32(optimizer.epsilon))
        self._step_kernel(*self.arrays, rows, noise.first_row, sums, *factors, noise.word, line)

    # ---- the store ----

    @classmethod
    def row_bytes(cls, dim: int, optimizer: OptimizerName) -> int:
        """Bytes of one row and of its optimizer state."""
        return cls.vector_bytes(dim) + (_STATE_BYTES if optimizer == "adagrad" else 0)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes of the rows and of the optimizer state."""
        return {"rows": self.values.nbytes + self.row_scales.nbytes, "optimizer": self.state.nbytes}

    def gather(self, reads: Reads, out: Tensor) -> None:
        """As `Store.gather`."""
        if self._backend == "numba":
            values, scales, _ = self.arrays
            self._gather_kernel(values, scales, reads.addresses, reads.fields, reads.gates, reads.inverse, out.numpy())
            return
        vectors = self.read(reads.addresses.clamp(min=0)) * (reads.addresses >= 0)
        out += vectors if reads.gates is None else vectors * reads.gates[reads.fields]

    def read(self, addresses: Tensor) -> Tensor:
        """The vectors (K, D) float32 at addresses (K, 1); bit for bit those of `gather` without gates."""
        return self._read_rows(addresses[:, 0].long())

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
        rows = addresses[:, 0].long()
        self._write_rows(rows, vectors, like, None)
        if not len(self.state):
            return
        if state is None:
            self.state.index_fill_(0, rows, 0.0)  # an assignment of a number would wait for the device
        else:
            self.state[rows] = state

    def scales(self, addresses: Tensor) -> Tensor | None:
        """The argument `like` of `write` that makes copies of the rows at (K, 1) exact; None without scales."""
        return self.row_scales[addresses[:, 0].long()] if len(self.row_scales) else None

    def state_of(self, addresses: Tensor) -> Tensor:
        """The optimizer sums (K,) at addresses (K, 1); zeros if there are none."""
        if len(self.state):
            return self.state[addresses[:, 0].long()]
        return torch.zeros(len(addresses), device=addresses.device)

    def sum_gradients(self, reads: Reads, gradient: Tensor, vectors: Tensor | None = None) -> Reduced:
        """As `Store.sum_gradients`; no two entries have the same address in the numba body."""
        if self._backend == "numba":
            return self._sum_numba(reads, gradient.numpy(), vectors)
        return self._sum_torch(reads, gradient)

    def learn(self, sums: tuple[Sums, ...], batch_rows: int) -> None:  # noqa: ARG002
        """As `Store.learn`."""
        self.step(sums[0])

    def step(self, sums: Sums, keep: float = 1.0) -> None:
        """One optimizer step on the rows, after each is scaled by `keep`."""
        noise = self.next_noise()
        if self._backend == "numba":
            self._step_numba(sums.rows, sums.gradients, noise, keep)
        elif len(sums.rows):
            self._step_torch(sums.rows, sums.gradients, noise, keep)

    def next_noise(self) -> Noise:
        """Counts a step, and returns its random bits."""
        self.__dict__["steps"] += 1  # past `nn.Module.__setattr__`, which takes longer than a small batch's step
        return Noise(self._seed, self.steps, self.sizes.first_row)

    def _sum_numba(self, reads: Reads, gradient: npt.NDArray[np.float32], vectors: Tensor | None) -> Reduced:
        sums = gradient
        if reads.inverse is not None:
            sums = np.zeros((len(reads.addresses), self.dim), np.float32)
            row_kernels(self.dim).merge(gradient, reads.inverse, sums, np.float32(0), _NONE)
        found = Sums(rows=reads.addresses[:, 0], gradients=sums, padding=self.num_rows)
        if vectors is None:
            return Reduced(sums=(found,))
        return Reduced(sums=(found,), slopes=self.gate_sums(found, reads, vectors.numpy())[:, None])

    def gate_sums(self, sums: Sums, reads: Reads, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Multiplies the sums (P, D) by the first gate (F, g) of their fields (P,); returns the gates' slopes (F,).

        The vectors (P, D) of the rows are times these gates, so their dot products are, too.
        """
        dots = np.zeros(len(reads.gates), np.float32)
        row_kernels(self.dim).gate_sums(vectors, sums.gradients, reads.fields, reads.gates, dots)
        return dots / reads.gates[:, 0]

    def _sum_torch(self, reads: Reads, gradient: Tensor) -> Reduced:
        """The torch body; no tensor has a shape that depends on the data."""
        slopes, row_gradient = None, gradient
        if reads.gates is not None:
            gates = reads.gates[reads.fields]  # (N, 1)
            row_gradient = gradient * gates
            vectors = self.read(reads.addresses.clamp(min=0)) * (reads.addresses >= 0)
            dots = (gradient * vectors).sum(dim=1, keepdim=True)  # (N, 1)
            slopes = torch.zeros_like(reads.gates).index_add_(0, reads.fields, dots)
        return Reduced(sums=(self.merge(reads.addresses[:, 0], row_gradient),), slopes=slopes)

    def merge(self, rows: Tensor, gradient: Tensor) -> Sums:
        """Sums gradients (N, D) by row (N,), negative for none; the torch body."""
        rows = torch.where(rows < 0, self.num_rows, rows)
        found, merged = gathers.merge_by_id(rows, gradient, self.num_rows)
        return Sums(rows=found, gradients=merged, padding=self.num_rows)

    def _step_torch(self, rows: Tensor, merged: Tensor, noise: Noise, keep: float) -> None:
        """One optimizer step on rows (K,) with gradients (K, D); rows equal to R are padding and stand at the end."""
        # Padding repeats the first row, which is then written several times with the same values.
        is_row = rows < self.num_rows  # (K,)
        rows = torch.where(is_row, rows, rows[0]).clamp(max=self.num_rows - 1)
        merged = torch.where(is_row[:, None], merged, merged[0])
        merged = torch.where(is_row[0], merged, 0.0)
        learning_rate: Tensor | float = self.optimizer.learning_rate
        if len(self.state):
            stored = self.state[rows] + self._mean_square(merged)  # (K,)
            self.state[rows] = stored
            learning_rate = (self.optimizer.learning_rate / (stored.sqrt() + self.optimizer.epsilon))[:, None]
        scales = self.row_scales[rows] if len(self.row_scales) else None
        first, kept = rows[:1], [part[rows[:1]] for part in (self.values, self.row_scales) if len(part)]
        self._write_rows(rows, self._read_rows(rows) * keep - merged * learning_rate, scales, noise)
        for part, old in zip((part for part in (self.values, self.row_scales) if len(part)), kept, strict=True):
            part[first] = torch.where(is_row[0], part[first], old)  # without any row, padding has changed the last one

    def _mean_square(self, merged: Tensor) -> Tensor:
        """The increments (K,) of the Adagrad sums for a gradient (K, D)."""
        return merged.square().mean(dim=1)

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
