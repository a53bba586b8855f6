"""`dqrm`: hashed rows of four bits with one scale for each field, which is renewed periodically (DQRM, 2024).

    value = whole number in -7 to 7, times the scale of the field        D / 2 bytes and an Adagrad sum a row
    every 200 steps: scale = largest value of the field / 7, and the rows are quantised again

Kept of the paper: four bits, symmetric, one scale for each table, values beyond it are clipped, and the period: the
largest value of a large table would cost a third of every step. Not kept: the float32 copy that the paper trains, so
that the memory of training is small, too: a step rounds stochastically. A field's largest value is that of its rows and
of all steps since the last renewal before they were clipped.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.embedding.captured import Capturing
from trainer.evaluate.methods.method import Brief, Infeasible, Method
from trainer.evaluate.methods.row_hash import RowHash, split_rows

__all__ = ["Dqrm", "PeriodicRows", "build"]

_LIMIT, _OFFSET = 7, 8  # as `trainer.embedding.stores.int4`
_PERIOD = 200
_STATE_BYTES, _SCALE_BYTES = 4, 8  # an Adagrad sum; a scale and the largest value since it was renewed

RowNumbers = npt.NDArray[np.int64]


class PeriodicRows(Capturing[RowNumbers]):
    """Rows (R, D) in four bits, two in a byte, with the scales of their F fields.

    Args:
        brief: optimizer, seed and D; the knob `period`, in steps.
        rows_of_fields: (F,) rows of each field, one field after the other.
    """

    def __init__(self, brief: Brief, rows_of_fields: RowNumbers) -> None:
        super().__init__()
        self._brief, self._period = brief, int(brief.number("period", _PERIOD))
        self._seeded = torch.Generator().manual_seed(brief.seed * 1009)
        self._ends = np.cumsum(rows_of_fields)
        num_rows, num_fields = int(self._ends[-1]), len(rows_of_fields)
        width = brief.dim**-0.5
        self.scales = torch.full((num_fields,), width / _LIMIT)
        self._peaks = torch.zeros(num_fields)
        self.values = torch.empty(num_rows, (brief.dim + 1) // 2, dtype=torch.uint8)
        self.state = torch.zeros(num_rows if brief.optimizer == "adagrad" else 0)
        start = torch.empty(num_rows, brief.dim).uniform_(-width, width, generator=self._seeded)
        self._write(np.arange(num_rows), start)
        self.num_steps = 0

    @property
    def nbytes(self) -> int:
        """Bytes of rows, optimizer state, scales and peaks."""
        return self.values.nbytes + self.state.nbytes + self.scales.nbytes + self._peaks.nbytes

    def _fields(self, rows: RowNumbers) -> Tensor:
        return torch.from_numpy(np.searchsorted(self._ends, rows, side="right"))

    def gather(self, lookup: RowNumbers) -> Tensor:
        """The vectors (N, D) of rows (N,)."""
        packed = self.values[torch.from_numpy(lookup)]
        whole = torch.cat([packed & 15, packed >> 4], dim=1)[:, : self._brief.dim].float() - _OFFSET
        return whole * self.scales[self._fields(lookup)][:, None]

    def forward(self, rows: RowNumbers) -> Tensor:
        """The vectors (..., D) of row numbers of any shape."""
        return self.gather_learning(rows.reshape(-1)).view(*rows.shape, -1)

    def _write(self, rows: RowNumbers, vectors: Tensor) -> None:
        """Overwrites distinct rows (K,) with vectors (K, D), rounded stochastically; what exceeds the scale is cut."""
        noise = torch.rand(vectors.shape, generator=self._seeded)
        whole = (vectors / self.scales[self._fields(rows)][:, None] + noise).floor().clamp(-_LIMIT, _LIMIT)
        half = self.values.shape[1]
        bits = torch.nn.functional.pad(whole + _OFFSET, (0, 2 * half - whole.shape[1])).to(torch.uint8)
        self.values[torch.from_numpy(rows)] = bits[:, :half] | bits[:, half:] << 4

    @torch.no_grad()
    def learn(self) -> None:
        """One optimizer step on the rows that were looked up, and every `period` steps new scales."""
        captured = self.take_captured()
        if not captured:
            return
        looked_up, gradient = np.concatenate([rows for rows, _ in captured]), torch.cat([each for _, each in captured])
        rows, inverse = np.unique(looked_up, return_inverse=True)
        sums = torch.zeros(len(rows), gradient.shape[1])
        sums.index_add_(0, torch.from_numpy(inverse.reshape(-1)), gradient)
        vectors = self.gather(rows) - sums * self._rates(torch.from_numpy(rows), sums)
        self._peaks.scatter_reduce_(0, self._fields(rows), vectors.abs().amax(dim=1), "amax")
        self._write(rows, vectors)
        self.num_steps += 1
        if self.num_steps % self._period == 0:
            self.renew()

    def _rates(self, rows: Tensor, sums: Tensor) -> Tensor:
        """The learning rates (K, 1) of rows (K,), row-wise Adagrad as in `RowStore`, or (1, 1)."""
        optimizer = self._brief.row_optimizer
        if not len(self.state):
            return torch.full((1, 1), optimizer.learning_rate)
        self.state[rows] += sums.square().mean(dim=1)
        return (optimizer.learning_rate / (self.state[rows].sqrt() + optimizer.epsilon))[:, None]

    @torch.no_grad()
    def renew(self) -> None:
        """Sets the scale of each field by its largest value, and quantises its rows again."""
        for field, (start, end) in enumerate(zip([0, *self._ends[:-1]], self._ends, strict=True)):
            rows = np.arange(start, end)
            vectors = self.gather(rows)
            largest = max(float(vectors.abs().max()), float(self._peaks[field]))
            if largest:
                self.scales[field] = largest / _LIMIT
                self._write(rows, vectors)
        self._peaks.zero_()


class Dqrm(Method):
    """The hashing trick over `PeriodicRows`.

    Knobs: `period` (steps), `split` of the rows among fields, as `hash`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()
    reads_lists: ClassVar[bool] = True

    def __init__(self, brief: Brief, num_rows: int) -> None:
        super().__init__()
        split = split_rows(num_rows, brief.field_sizes, brief.word("split", "equal"))
        self._row_hash = RowHash(brief.field_sizes, split, brief.seed)
        self.rows = PeriodicRows(brief, split)

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        vectors: Tensor = self.rows(self._row_hash(words.numpy()))
        return vectors

    def learn(self) -> None:
        """As `Method.learn`."""
        self.rows.learn()

    @property
    def nbytes(self) -> int:
        """As `Method.nbytes`."""
        return self.rows.nbytes

    @property
    def paper_bytes(self) -> int:
        """As `Method.paper_bytes`: without optimizer state."""
        return self.rows.nbytes - self.rows.state.nbytes


def build(brief: Brief) -> Dqrm | Infeasible:
    """The most rows that fit, at least one per field."""
    fewest, state_bytes = len(brief.field_sizes), _STATE_BYTES if brief.optimizer == "adagrad" else 0
    row_bytes = (brief.dim + 1) // 2 + state_bytes
    num_rows = (brief.budget_bytes - fewest * _SCALE_BYTES) // row_bytes
    if num_rows < fewest:
        needed = fewest * (row_bytes + _SCALE_BYTES)
        return Infeasible(f"one row and one scale per field need {needed} bytes, got {brief.budget_bytes}")
    return Dqrm(brief, num_rows)
