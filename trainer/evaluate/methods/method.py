"""What a method of compression is: made from a byte budget, trained online, its bytes counted.

    Brief --build--> Method, or Infeasible with the reason (a method never overshoots)

Two accountings stand side by side. `nbytes` is everything that grows with the table: rows, optimizer state, sketch,
router, free lists, pointers, small fields, and it is what must fit the budget. `paper_bytes` leaves out what the CAFE
paper leaves out: the optimizer's state, the free list and the router. Buffers of a fixed size that live for one step
are counted by neither, for no method.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from trainer.embedding.stores.registry import DEFAULT_ROW_FORMAT, store_class
from trainer.embedding.stores.rows import RowOptimizer
from trainer.embedding.stores.store import OptimizerName

__all__ = ["Brief", "Infeasible", "Knob", "Method"]

Knob = str | float


@dataclass(frozen=True)
class Infeasible:
    """A budget that the method cannot meet; `reason` names the least bytes that it needs."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Brief:
    """What a method is made from.

    Attributes:
        budget_bytes: all that it may take.
        dim: D.
        field_sizes: distinct features of each field in the run, which a full table has rows for.
        optimizer: of the rows; `adagrad` keeps a float32 a row.
        rate: learning rate of the rows.
        epsilon: added to Adagrad's root: how far a row's first steps go.
        seed: of first values, hashes and coins.
        knobs: the method's own settings that differ from its defaults.
        counts: (n,) occurrences of each feature in the whole run: the future, for the oracle alone.
    """

    budget_bytes: int
    dim: int
    field_sizes: tuple[int, ...]
    optimizer: OptimizerName = "adagrad"
    rate: float = RowOptimizer.rate
    epsilon: float = RowOptimizer.epsilon
    seed: int = 0
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    counts: Callable[[], npt.NDArray[np.int64]] | None = None

    @property
    def num_features(self) -> int:
        """n, the rows of a full table."""
        return sum(self.field_sizes)

    def row_bytes(self, row_format: str = DEFAULT_ROW_FORMAT, dim: int | None = None) -> int:
        """Bytes of one row and of its optimizer state."""
        return store_class(row_format).row_bytes(dim or self.dim, self.optimizer)

    @property
    def row_format(self) -> str:
        """Knob `row_format`: the store of the rows by name, float32 by default."""
        return self.word("row_format", DEFAULT_ROW_FORMAT)

    @property
    def row_optimizer(self) -> RowOptimizer:
        """How touched rows learn, the same for every method."""
        return RowOptimizer(rate=self.rate, epsilon=self.epsilon)

    @property
    def full_bytes(self) -> int:
        """Bytes of the uncompressed table and its optimizer state."""
        return (self.num_features + 1) * self.row_bytes()

    def number(self, name: str, default: float) -> float:
        """A knob that is a number."""
        return float(self.knobs.get(name, default))

    def word(self, name: str, default: str) -> str:
        """A knob that is a word."""
        return str(self.knobs.get(name, default))


class Method(nn.Module):
    """An embedding under comparison; its torch parameters, if any, learn with the model's.

    Attributes:
        capabilities: of `adaptive` (follows the stream), `needs_vocabulary` (features must be numbered beforehand),
            `sees_future` (an oracle), `uncompressed`.
        reads_ids: whether `forward` takes feature numbers (the vocabulary's) instead of feature keys.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()
    reads_ids: ClassVar[bool] = True

    @abstractmethod
    def forward(self, words: Tensor) -> Tensor:
        """The vectors (B, F, D) of keys or ids (B, F) int64; changes nothing but what it needs for `learn`."""

    @abstractmethod
    def learn(self) -> None:
        """Applies the gradients of the last backward pass, then moves features between tiers."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Everything that is allocated."""

    @property
    @abstractmethod
    def paper_bytes(self) -> int:
        """What the CAFE paper would count of it."""

    def describe(self) -> dict[str, float]:
        """Sizes and counts for the report."""
        return {}
