"""`RowFormat`: how rows are kept, read, overwritten and trained, in a numba and in a torch body.

    format     bytes a row     values (R, D)     scales
    float32    4 D             float32           (0,)
    bfloat16   2 D             bfloat16          (0,)
    int8       D + 2           int8              (R,) bfloat16: a number is its int8 times its row's scale

Whatever does not fit is rounded by chance when a row is trained (right on average, so that small steps are not lost)
and to the nearest when a row is overwritten. The scale of an int8 row is kept until the row's maximum leaves [.5, 1] of
its range, and then set so that it sits at .85.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sketch.hashing import mix64_array
from trainer.embedding.gathers import mix64_tensor
from trainer.embedding.lookup import Routes
from trainer.embedding.plans import RowFormatName
from trainer.embedding.stores import kernels
from trainer.embedding.stores.lanes import NOISE_CONSTANTS

__all__ = ["FORMATS", "Chance", "RowFormat", "Rows"]

_MASK = 0xFFFFFFFF
_LIMIT, _TARGET = float(kernels.INT8_LIMIT), float(kernels.INT8_TARGET)


@dataclass(frozen=True)
class Rows:
    """The tensors of a table: values (R, D), scales (R,) or (0,)."""

    values: Tensor
    scales: Tensor


@dataclass(frozen=True)
class Chance:
    """Where the random bits of one round of updates come from: a seed and the round's number."""

    seed: int
    round: int

    @property
    def word(self) -> np.uint64:
        """What is mixed with a row's number: the round in the upper half, and the seed over both."""
        mixed = mix64_array(np.array([self.seed], np.uint64))[0]
        return np.uint64(mixed ^ np.uint64((self.round & _MASK) << 32))

    def bits(self, rows: Tensor, dim: int) -> Tensor:
        """(K, D) int64, 16 random bits each: `lanes._noise`."""
        step, factor_1, factor_2 = NOISE_CONSTANTS
        word = int(self.word.astype(np.int64))
        salt = mix64_tensor(rows.long() ^ word) & _MASK  # (K,)
        places = torch.arange(dim, device=rows.device)  # (D,)
        words = ((places >> 4 << 3 | places & 7) * step) & _MASK  # one word serves two numbers
        bits = (salt[:, None] + words) & _MASK
        bits = ((bits ^ bits >> 16) * factor_1) & _MASK
        bits = ((bits ^ bits >> 15) * factor_2) & _MASK
        return bits >> ((places & 8) << 1) & 0xFFFF


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    """A tensor as numba sees it: bfloat16 as uint16."""
    return tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


class RowFormat(ABC):
    """What a table of rows is stored as; keeps nothing itself."""

    name: ClassVar[RowFormatName]

    @abstractmethod
    def make(self, numbers: Tensor) -> Rows:
        """Rows that hold (R, D) float32 numbers, to the nearest."""

    @abstractmethod
    def read(self, table: Rows, rows: Tensor) -> Tensor:
        """The rows (K,) as float32 (K, D). Torch."""

    @abstractmethod
    def write(self, table: Rows, rows: Tensor, numbers: Tensor, like: Tensor, chance: Chance | None = None) -> None:
        """Overwrites rows (K,) with (K, D) float32, to the nearest or by chance. Torch.

        Args:
            table: the rows.
            rows: which.
            numbers: what they hold then.
            like: (K,) rows whose scale is kept where it suits, so that a copy of one is exact.
            chance: how to round; None: to the nearest.
        """

    def gather(self, table: Rows, routes: Routes, factors: Tensor | None, inverse: Tensor, out: Tensor) -> None:
        """Fills (N, D) with each lookup's vector, times its key's factor (U,) if given. Numba."""
        gates = np.empty(0, np.float32) if factors is None else factors.numpy()
        values, scales = _array(table.values), _array(table.scales)
        rows = (part.numpy() for part in routes)
        kernels.row_kernels(values.shape[1]).gather(values, scales, *rows, gates, inverse.numpy(), out.numpy())

    def descend(
        self, table: Rows, state: Tensor, rows: Tensor, merged: Tensor, rates: tuple[float, float], chance: Chance
    ) -> None:
        """One optimizer step on distinct rows (P,) with summed gradients (P, D); rate and epsilon. Numba."""
        rate, epsilon = np.float32(rates[0]), np.float32(rates[1])
        values, scales = _array(table.values), _array(table.scales)
        line = np.empty(merged.shape[1], np.float32)
        kernels.row_kernels(values.shape[1]).descend(
            values, scales, state.numpy(), rows.numpy(), merged.numpy(), rate, epsilon, chance.word, line
        )


class Float32(RowFormat):
    """Numbers as they are."""

    name = "float32"

    def make(self, numbers: Tensor) -> Rows:
        """The numbers themselves."""
        return Rows(numbers, torch.empty(0, dtype=torch.bfloat16))

    def read(self, table: Rows, rows: Tensor) -> Tensor:
        """The rows."""
        return table.values[rows]

    def write(self, table: Rows, rows: Tensor, numbers: Tensor, like: Tensor, chance: Chance | None = None) -> None:  # noqa: ARG002
        """Exact."""
        table.values[rows] = numbers


class BFloat16(RowFormat):
    """The upper half of a float32."""

    name = "bfloat16"

    def make(self, numbers: Tensor) -> Rows:
        """The nearest."""
        return Rows(numbers.to(torch.bfloat16), torch.empty(0, dtype=torch.bfloat16))

    def read(self, table: Rows, rows: Tensor) -> Tensor:
        """Exact."""
        return table.values[rows].float()

    def write(self, table: Rows, rows: Tensor, numbers: Tensor, like: Tensor, chance: Chance | None = None) -> None:  # noqa: ARG002
        """As `RowFormat.write`."""
        if chance is None:
            table.values[rows] = numbers.to(torch.bfloat16)
            return
        bits = numbers.contiguous().view(torch.int32) + chance.bits(rows, numbers.shape[1]).int()
        table.values[rows] = (bits >> 16).to(torch.int16).view(torch.bfloat16)


class Int8(RowFormat):
    """Whole numbers of -127 to 127 times a scale of the row's own."""

    name = "int8"

    def make(self, numbers: Tensor) -> Rows:
        """The nearest, each row's maximum at .85 of its range."""
        table = Rows(torch.zeros_like(numbers, dtype=torch.int8), torch.ones(len(numbers), dtype=torch.bfloat16))
        rows = torch.arange(len(numbers))
        self.write(table, rows, numbers, rows)
        return table

    def read(self, table: Rows, rows: Tensor) -> Tensor:
        """Exact."""
        return table.values[rows].float() * table.scales[rows].float()[:, None]

    def write(self, table: Rows, rows: Tensor, numbers: Tensor, like: Tensor, chance: Chance | None = None) -> None:
        """As `RowFormat.write`."""
        scales, peaks = table.scales[like], numbers.abs().amax(dim=1)  # (K,)
        limits = _LIMIT * scales.float()
        renewed = (peaks / _TARGET).to(torch.bfloat16)
        kept = ((limits * 0.5 <= peaks) & (peaks <= limits)) | (renewed == 0)
        scales = torch.where(kept, scales, renewed)
        up = 0.5 if chance is None else (chance.bits(rows, numbers.shape[1]).float() + 0.5) / 65536.0
        table.values[rows] = (numbers / scales.float()[:, None] + up).floor().to(torch.int8)
        table.scales[rows] = scales


FORMATS: dict[RowFormatName, RowFormat] = {kind.name: kind for kind in (Float32(), BFloat16(), Int8())}
