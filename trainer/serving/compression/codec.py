"""`Codec`: R vectors of D values in fewer bytes, to be read only; and the `Sample` from which one is made.

    K rows that are read, G groups of rows (the fields)

A codec is a few arrays. A new one is a file with a subclass and a line in `trainer.serving.compression.formats`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from trainer.errors import CheckpointError, PlanError

__all__ = ["Arrays", "Codec", "Sample", "Vectors", "take", "to_float16"]

Vectors = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The rows of a table, and how much each matters.

    Attributes:
        vectors: (R, D) float32.
        weights: (R,) float64, 0 or more: how often a row is read.
        groups: (R,) the group of each row, from 0.
        num_groups: G.
        seed: of what is chosen randomly.
    """

    vectors: Vectors
    weights: npt.NDArray[np.float64]
    groups: npt.NDArray[np.int64]
    num_groups: int
    seed: int = 0

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """D."""
        return self.vectors.shape[1]

    def error(self, decoded: Vectors) -> float:
        """The squared error of vectors (R, D) in the place of these, weighted."""
        return float(self.weights @ np.square(decoded - self.vectors, dtype=np.float64).sum(axis=1))


class Codec(ABC):
    """R rows in a stored form.

    Guarantees: `decode` gives a row the same values whatever is decoded with it, bit for bit, and changes nothing.

    Attributes:
        name: of the form.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def least_bytes(cls, sample: Sample) -> int:
        """The fewest bytes that `fit` takes."""

    @classmethod
    @abstractmethod
    def fit(cls, sample: Sample, budget_bytes: int) -> Codec:
        """The codec of at most so many bytes, `least_bytes` or more, whose weighted squared error is small."""

    @classmethod
    @abstractmethod
    def load(cls, arrays: Arrays, *, num_rows: int, dim: int, num_groups: int) -> Codec:
        """The codec of the result of `arrays`.

        Raises:
            CheckpointError: an array is missing, has another shape or dtype, or names a row that is not there.
        """

    @abstractmethod
    def arrays(self) -> Arrays:
        """What is stored."""

    @abstractmethod
    def decode(self, rows: npt.NDArray[Any], groups: npt.NDArray[Any], columns: slice = slice(None)) -> Vectors:
        """Some columns of the vectors (K, w) of rows (K,) of groups (K,)."""

    def check_groups(self, groups: npt.NDArray[Any]) -> None:  # noqa: B027  most forms have no groups
        """Refuses what does not fit the groups (R,) of the rows.

        Raises:
            CheckpointError: a row names something that its group does not have.
        """

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays().values())

    @classmethod
    def require_bytes(cls, sample: Sample, budget_bytes: int) -> None:
        """Refuses a budget below `least_bytes`.

        Raises:
            PlanError: it is.
        """
        if budget_bytes < (least := cls.least_bytes(sample)):
            raise PlanError(
                f"{cls.name}: got {budget_bytes} bytes for {sample.num_rows} rows, expected {least} or more"
            )


def take(arrays: Arrays, name: str, dtypes: tuple[Any, ...], shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    """An array of a file.

    Args:
        arrays: those of the file.
        name: which.
        dtypes: those that it may have.
        shape: its shape; None for any size.

    Raises:
        CheckpointError: it is missing, has another shape or dtype, or numbers that are not finite.
    """
    if name not in arrays:
        raise CheckpointError(f"compressed rows: {name} is missing, expected among {', '.join(sorted(arrays))}")
    array = arrays[name]
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if array.dtype not in dtypes or not fits:
        wanted = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise CheckpointError(f"compressed rows: {name}: got {array.dtype} {array.shape}, expected {wanted} {shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CheckpointError(f"compressed rows: {name}: got numbers that are not finite; export again")
    return array


def to_float16(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """Values as float16.

    Args:
        name: of the form, for the message.
        values: finite ones.

    Raises:
        PlanError: one is larger than float16 has.
    """
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float16)
    if not np.isfinite(narrow).all():
        raise PlanError(
            f"{name}: got {np.abs(values).max():g}, expected numbers that float16 has; did the model diverge?"
        )
    return narrow
