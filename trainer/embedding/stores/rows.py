"""`RowStore`: a vector is one row, or is put together from the parts of k rows; what a row is stored as is a subclass.

    parts = 1    a vector is a row
    parts = 2    a vector is the left half of one row and the right half of another

A step: row-wise Adagrad, state += mean(g^2), row -= rate * g / (sqrt(state) + epsilon); plain descent without a state.
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
from trainer.embedding.stores.registry import DEFAULT_EPSILON, DEFAULT_RATE
from trainer.embedding.stores.store import OptimizerName, Reads, Store, Sums, Tally
from trainer.errors import CheckpointError, PlanError

__all__ = ["Addressing", "RowOptimizer", "RowSizes", "RowStore"]

_NONE = np.empty(0, np.float32)


@dataclass(frozen=True, kw_only=True)
class RowOptimizer:
    """How touched rows learn; whether there is a state is the plan's `optimizer`.

    Args:
        rate: learning rate, more than 0.
        epsilon: added to Adagrad's root. About a rare row's gradients, so that its first steps are not the longest.
    """

    rate: float = DEFAULT_RATE
    epsilon: float = DEFAULT_EPSILON

    def __post_init__(self) -> None:
        if not self.rate > 0 or not self.epsilon > 0:
            raise PlanError(f"row optimizer: got rate {self.rate}, epsilon {self.epsilon}, expected more than 0")


@dataclass(frozen=True, kw_only=True)
class RowSizes:
    """The sizes of one store of rows.

    Args:
        num_rows: R.
        dim: D.
        optimizer: `adagrad` keeps one float32 a row, `sgd` nothing.
        parts: k, rows that a vector is put together from.
        is_padded: whether there is one more row, number R, that stays zero.
        first_row: of all stores of one embedding, the rows of those before: no two rows share random bits.
    """

    num_rows: int
    dim: int
    optimizer: OptimizerName = "adagrad"
    parts: int = 1
    is_padded: bool = False
    first_row: int = 0


class Addressing(Protocol):
    """A rule from a key to its k addresses."""

    def __call__(self, keys: Tensor, backend: Backend) -> Tensor:
        """The addresses (U, k) of int64 keys (U,)."""
        ...


class RowStore(Store):
    """R rows, and one Adagrad sum a row.

    Args:
        sizes: of the store.
        optimizer: its constants.
        initial: the source of the initial values, uniform within +-sqrt(1 / D), the same on every device.
        seed: of stochastic rounding.
        addressing: the rule behind `address`; None if another decides who has which row.
        device: where the rows are.
        backend: `numba` or `torch`; None for the device's own.

    Attributes:
        steps: optimizer steps so far, which rounding depends on.
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
        numbers = torch.empty(sizes.num_rows + sizes.is_padded, sizes.dim)  # (R, D)
        numbers.uniform_(-1, 1, generator=initial)
        numbers *= sizes.dim**-0.5
        numbers[sizes.num_rows :] = 0
        values, scales = self._make(numbers)
        self.register_buffer("values", values.to(device), persistent=False)
        self.register_buffer("row_scales", scales.to(device), persistent=False)
        num_sums = len(numbers) if sizes.optimizer == "adagrad" else 0
        self.register_buffer("state", torch.zeros(num_sums, device=device), persistent=False)

    @property
    def _arrays(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.float32]]:
        """Values, scales and state as numba sees them."""
        if self._views is None:
            self._views = (_array(self.values), _array(self.row_scales), self.state.numpy())
        return self._views

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes views of its own tensors."""
        return {**self.__dict__, "_views": None}

    # ---- what a row is stored as ----

    @abstractmethod
    def _make(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Values and scales, (R, ...) and (R,) or (0,), of rows that hold (R, D) float32 numbers, to the nearest."""

    @abstractmethod
    def _read_rows(self, rows: Tensor) -> Tensor:
        """The rows (K,) as float32 (K, D). Torch."""

    @abstractmethod
    def _write_rows(self, rows: Tensor, numbers: Tensor, scales: Tensor | None, noise: Noise | None) -> None:
        """Overwrites rows (K,) with (K, D) float32. Torch.

        Args:
            rows: which.
            numbers: what they hold then.
            scales: (K,) scales that are kept where they suit; None for new ones.
            noise: of stochastic rounding; None: to the nearest.
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
        constants = (np.float32(self._optimizer.rate), np.float32(self._optimizer.epsilon), noise.word)
        self._step_kernel(*self._arrays, rows, noise.first_row, sums, *constants, np.empty(sums.shape[1], np.float32))

    # ---- the store ----

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes of the rows and of the optimizer's state."""
        return {"rows": self.values.nbytes + self.row_scales.nbytes, "optimizer": self.state.nbytes}

    def address(self, keys: Tensor) -> Tensor:
        """As `Store.address`."""
        assert self._addressing is not None, "the rows of this store are given away, not computed"  # noqa: S101
        return self._addressing(keys, self._backend)

    def gather_add(self, reads: Reads, out: Tensor) -> None:
        """As `Store.gather_add`."""
        if self._backend == "numba":
            self._gather_numba(reads, out)
            return
        is_there = (reads.addresses[:, :1] >= 0).float()  # (N, 1)
        vectors = self.read(reads.addresses.clamp(min=0)) * is_there
        out += vectors if reads.gates is None else vectors * reads.gates[:, None]

    def read(self, addresses: Tensor) -> Tensor:
        """As `Store.read`: bit for bit what `gather_add` gives without a gate."""
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
        rows, numbers = self._number(reads)
        sums, slopes = np.zeros((len(rows), self.dim), np.float32), gradient.numpy()
        asked = (np.float32(0), _NONE, _NONE, slopes)
        if tally is not None:
            asked = (tally.factor, tally.scores, tally.dots, tally.vectors)
        merge = row_kernels(self.dim, self.sizes.parts).merge
        merge(slopes, reads.inverse, reads.where, numbers, reads.gates, sums, *asked)
        return Sums(rows=rows, gradients=sums, padding=self.num_rows)

    def _number(self, reads: Reads) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32] | None]:
        """The distinct rows (P,) that were read, and the number among them of each address, (U, k) int32.

        None: each key has its own row, and the key's number.
        """
        addresses, members = reads.addresses, reads.members
        if members is None:
            return addresses[:, 0], None
        numbers = np.empty(addresses.shape, np.int32)
        count = len(members) * addresses.shape[1]
        rows = np.empty(1 + count, np.int32)
        if reads.is_distinct:
            number_distinct(addresses, members, rows[1:], numbers)
        else:
            count = number_rows(addresses, members, *empty_slots(count), rows, numbers)
        return rows[1 : 1 + count], numbers

    def _sum_torch(self, reads: Reads, gradient: Tensor, tally: Tally | None) -> Sums:  # noqa: ARG002
        """Nothing has a shape that depends on the data."""
        if reads.gates is not None:
            gradient = gradient * reads.gates[:, None]
        addresses = torch.where(reads.addresses < 0, self.num_rows, reads.addresses)  # (N, k)
        rows, merged = gathers.merge_by_id(addresses.t().reshape(-1), self._by_part(gradient), self.num_rows)
        return Sums(rows=rows, gradients=merged, padding=self.num_rows)

    def _step_torch(self, rows: Tensor, merged: Tensor, noise: Noise) -> None:
        """One step on rows (K,), of which those from the first that is R on are none, with gradients (K, D)."""
        # What follows the last row repeats the first one, which then is written more than once with the same numbers.
        is_row = rows < self.num_rows  # (K,)
        rows = torch.where(is_row, rows, rows[0]).clamp(max=self.num_rows - 1)
        merged = torch.where(is_row[:, None], merged, merged[0])
        merged = torch.where(is_row[0], merged, 0.0)
        rate: Tensor | float = self._optimizer.rate
        if len(self.state):
            stored = self.state[rows] + self._mean_square(merged)  # (K,)
            self.state[rows] = stored
            rate = (self._optimizer.rate / (stored.sqrt() + self._optimizer.epsilon))[:, None]
        scales = self.row_scales[rows] if len(self.row_scales) else None
        self._write_rows(rows, self._read_rows(rows) - merged * rate, scales, noise)

    def _mean_square(self, merged: Tensor) -> Tensor:
        """What a gradient (K, D) adds to the Adagrad sums (K,)."""
        return merged.square().mean(dim=1)

    def _by_part(self, gradient: Tensor) -> Tensor:
        """The gradients (k N, D) of each part's rows, one part after the other; 0 outside of the part's columns."""
        if self.sizes.parts == 1:
            return gradient
        columns = torch.arange(self.dim, device=gradient.device)
        return torch.cat([gradient * ((start <= columns) & (columns < stop)) for start, stop in self._bounds()])

    def scale_initial_values(self, factor: float) -> None:
        """Multiplies every number; for a store that has not learned."""
        numbers = self.row_scales if len(self.row_scales) else self.values
        numbers *= factor

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
    """A tensor as numba sees it: bfloat16 as uint16."""
    return tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()
