"""The rows of an embedding, their optimizer, and nothing of what they mean; `trainer.formats` keeps the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.embedding.layout import left_half
from trainer.embedding.lookup import Lookup, Routes
from trainer.embedding.plans import DEFAULT_EPSILON, DEFAULT_RATE, EmbeddingPlan
from trainer.embedding.router import Backend, choose_backend
from trainer.embedding.stores.formats import FORMATS, Chance, Rows
from trainer.errors import CheckpointError, PlanError

__all__ = ["RowOptimizer", "RowTable"]


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


class RowTable(nn.Module):
    """(R, D) rows in the plan's format, the last of them zero for ever, and one Adagrad sum a row.

    Args:
        plan: sizes, format and optimizer.
        optimizer: its constants.
        seed: of the first values, uniform within +-sqrt(1 / D), the same on every device, and of rounding.
        device: where the rows are.
        backend: `numba` or `torch`; None for the device's own.

    Attributes:
        rounds: updates so far, which rounding depends on.
    """

    values: Tensor
    scales: Tensor
    state: Tensor

    def __init__(
        self,
        plan: EmbeddingPlan,
        *,
        optimizer: RowOptimizer,
        seed: int = 0,
        device: torch.device | None = None,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        device = device or torch.device("cpu")
        self._backend = choose_backend(device, backend)
        self._optimizer = optimizer
        self._format = FORMATS[plan.row_format]
        self._has_state = plan.optimizer == "adagrad"
        self._padding = plan.layout.padding_row
        self._seed = seed
        self.rounds = 0
        num_rows = plan.layout.num_rows
        numbers = torch.empty(num_rows, plan.dim)  # (R, D)
        numbers.uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))
        numbers *= plan.dim**-0.5
        numbers[self._padding] = 0
        rows = self._format.make(numbers)
        self.register_buffer("values", rows.values.to(device), persistent=False)
        self.register_buffer("scales", rows.scales.to(device), persistent=False)
        self.register_buffer("state", torch.zeros(num_rows if self._has_state else 0, device=device), persistent=False)

    @property
    def _rows(self) -> Rows:
        return Rows(self.values, self.scales)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes of the rows and of the optimizer's state."""
        return {"rows": self.values.nbytes + self.scales.nbytes, "optimizer": self.state.nbytes}

    def gather(self, lookup: Lookup) -> Tensor:
        """The looked-up vectors, (N, D), times their gates."""
        factors = lookup.gated.factors if lookup.gated else None  # (U,)
        if lookup.inverse is None:
            numbers = self.read(lookup.routes)
            return numbers if factors is None else numbers * factors[:, None]
        out = torch.empty(len(lookup.inverse), self.values.shape[1])
        self._format.gather(self._rows, lookup.routes, factors, lookup.inverse, out)
        return out

    def read(self, routes: Routes) -> Tensor:
        """The vectors of (U,) routes, float32 (U, D): bit for bit what `gather` gives without a gate."""
        row, left, right = (self._format.read(self._rows, rows.long()) for rows in routes)
        if not len(routes.left):
            return row
        half = left_half(row.shape[1])
        return row + torch.cat([left[:, :half], right[:, half:]], dim=1)

    def write(self, rows: Tensor, vectors: Tensor, state: Tensor, like: Tensor) -> None:
        """Overwrites distinct rows (K,) with vectors (K, D), to the nearest, and Adagrad sums (K,).

        Args:
            rows: which.
            vectors: what they hold then.
            state: their sums.
            like: (K,) rows that the vectors come from: where one is just such a row, the copy is exact.
        """
        self._format.write(self._rows, rows, vectors, like.long())
        if self._has_state:
            self.state[rows] = state

    def read_state(self, rows: Tensor) -> Tensor:
        """The Adagrad sums of rows (K,), zeros if there are none."""
        return self.state[rows] if self._has_state else torch.zeros(len(rows), device=self.values.device)

    def update(self, rows: Tensor, merged: Tensor) -> None:
        """One optimizer step on rows (K,) with summed gradients (K, D); equal rows only with zero gradients."""
        self.rounds += 1
        rates, chance = (self._optimizer.rate, self._optimizer.epsilon), Chance(self._seed, self.rounds)
        if self._backend == "numba":
            self._format.descend(self._rows, self.state, rows, merged, rates, chance)
            return
        rate: Tensor | float = rates[0]
        if self._has_state:
            stored = self.state[rows] + merged.square().mean(dim=1)  # (K,)
            self.state[rows] = stored
            rate = (rates[0] / (stored.sqrt() + rates[1]))[:, None]
        numbers = self._format.read(self._rows, rows) - merged * rate  # (K, D)
        self._format.write(self._rows, rows, numbers, rows, chance)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold."""
        named = {"values": self.values, "scales": self.scales, "state": self.state}
        return {**named, "rounds": torch.tensor([self.rounds]), "seed": torch.tensor([self._seed])}

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` gave.

        Raises:
            CheckpointError: they are of another size or format.
        """
        for name, mine in (("values", self.values), ("scales", self.scales), ("state", self.state)):
            said = tensors[name]
            if said.shape != mine.shape or said.dtype != mine.dtype:
                raise CheckpointError(
                    f"{name}: got {tuple(said.shape)} {said.dtype}, expected {tuple(mine.shape)} {mine.dtype}"
                )
            mine.copy_(said)
        self.rounds, self._seed = int(tensors["rounds"][0]), int(tensors["seed"][0])
