"""`Method`: the interface of a compression method, which is built for a byte budget and trained online.

    Brief --build--> Method, or Infeasible with the reason (a method never exceeds the budget)

There are two ways to count bytes. `nbytes` counts everything that grows with the table: rows, optimizer state, sketch,
router, free lists, pointers and small fields; it must fit the budget. `paper_bytes` counts like the CAFE paper, without
optimizer state, free list and router. Neither counts buffers of a fixed size that live for one step.
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
    """A budget that is too small for the method; `reason` names the bytes that it needs at least."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Brief:
    """The inputs from which a method is built.

    Attributes:
        budget_bytes: the most bytes that the method may allocate.
        dim: D.
        field_sizes: distinct features of each field in the run; a full table has a row for each.
        optimizer: the optimizer of the rows; `adagrad` keeps a float32 per row.
        learning_rate: learning rate of the rows.
        epsilon: added to the root of the Adagrad sum; limits the first steps of a row.
        seed: the seed of initial values, hashes and stochastic rounding.
        knobs: settings of the method that differ from its defaults.
        counts: (n,) occurrences of each feature in the whole run, future included; for the oracle only.
    """

    budget_bytes: int
    dim: int
    field_sizes: tuple[int, ...]
    optimizer: OptimizerName = "adagrad"
    learning_rate: float = RowOptimizer.learning_rate
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
        """The hyperparameters of the rows' optimizer, the same for every method."""
        return RowOptimizer(learning_rate=self.learning_rate, epsilon=self.epsilon)

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
    """An embedding under comparison; its torch parameters, if any, learn with those of the model.

    Attributes:
        capabilities: a subset of `adaptive` (follows the stream), `needs_vocabulary` (features must be numbered in
            advance), `sees_future` (an oracle), `uncompressed`.
        reads_ids: whether `forward` takes feature numbers (the vocabulary's) instead of feature keys.
        reads_lists: whether `forward_values` is there, for logs with several values in a field.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()
    reads_ids: ClassVar[bool] = True
    reads_lists: ClassVar[bool] = False

    @abstractmethod
    def forward(self, words: Tensor) -> Tensor:
        """The vectors (B, F, D) of keys or ids (B, F) int64; only remembers what `learn` needs."""

    def forward_values(self, words: Tensor, batch_rows: int) -> Tensor:  # noqa: ARG002
        """The vectors (N, D) of the values (N,) of all fields of some rows, in any order.

        Args:
            words: keys or ids, int64.
            batch_rows: B, the rows, over which the loss is a mean.
        """
        vectors: Tensor = self(words)
        return vectors

    @abstractmethod
    def learn(self) -> None:
        """Applies the gradients of the last backward pass, then moves features between tiers."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes allocated, everything that grows with the table included."""

    @property
    @abstractmethod
    def paper_bytes(self) -> int:
        """Bytes as the CAFE paper counts them."""

    def describe(self) -> dict[str, float]:
        """Sizes and counts for the report."""
        return {}
