"""`Int8` and `Int4`: whole numbers times a float16 scale for each row, rounded to the nearest."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from trainer.serving.compression.codec import Arrays, Codec, Sample, Vectors, take, to_float16

__all__ = ["Int4", "Int8"]

_SCALE_BYTES = 2
_INT4_OFFSET = 8


class _Rounded(Codec):
    """Values in -limit to limit times the scale of their row: the error is about half a step at most.

    A step is the largest value of the row / limit.
    """

    limit: ClassVar[int]

    def __init__(self, values: npt.NDArray[Any], scales: npt.NDArray[np.float16], dim: int) -> None:
        self._values, self._scales, self._dim = values, scales, dim

    @classmethod
    def least_bytes(cls, sample: Sample) -> int:
        """As `Codec.least_bytes`."""
        return sample.num_rows * cls.vector_bytes(sample.dim)

    @classmethod
    def vector_bytes(cls, dim: int) -> int:
        """Bytes of a row of D values and of its scale."""
        return cls._width(dim) + _SCALE_BYTES

    @classmethod
    def fit(cls, sample: Sample, budget_bytes: int) -> Codec:
        """As `Codec.fit`; more bytes than `least_bytes` do not make it better."""
        cls.require_bytes(sample, budget_bytes)
        return cls.rounded(sample.vectors)

    @classmethod
    def rounded(cls, vectors: Vectors) -> Codec:
        """The codec of vectors (R, D).

        Raises:
            PlanError: a scale is larger than float16 has.
        """
        peaks = np.abs(vectors).max(axis=1, initial=0.0)
        scales = to_float16(cls.name, peaks / cls.limit)
        divisors = np.where(scales > 0, scales, 1).astype(np.float32)[:, None]
        whole = np.clip(np.rint(vectors / divisors), -cls.limit, cls.limit).astype(np.int8)
        return cls(cls._pack(whole), scales, vectors.shape[1])

    @classmethod
    def load(cls, arrays: Arrays, *, num_rows: int, dim: int, num_groups: int) -> Codec:  # noqa: ARG003
        """As `Codec.load`."""
        values = take(arrays, "values", (cls._dtype(),), (num_rows, cls._width(dim)))
        return cls(values, take(arrays, "scales", (np.float16,), (num_rows,)), dim)

    def arrays(self) -> Arrays:
        """As `Codec.arrays`."""
        return {"values": self._values, "scales": self._scales}

    def decode(self, rows: npt.NDArray[Any], groups: npt.NDArray[Any], columns: slice = slice(None)) -> Vectors:  # noqa: ARG002
        """As `Codec.decode`."""
        whole = self._unpack(self._values[rows], columns).astype(np.float32)
        return whole * self._scales[rows].astype(np.float32)[:, None]

    @classmethod
    def _dtype(cls) -> Any:
        return np.int8

    @classmethod
    def _width(cls, dim: int) -> int:
        return dim

    @classmethod
    def _pack(cls, whole: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
        return whole

    def _unpack(self, stored: npt.NDArray[Any], columns: slice) -> npt.NDArray[Any]:
        return stored[:, columns]


class Int8(_Rounded):
    """A byte a value."""

    name, limit = "int8", 127


class Int4(_Rounded):
    """Half a byte a value, plus 8: the low halves of the bytes are the first half of a row."""

    name, limit = "int4", 7

    @classmethod
    def _dtype(cls) -> Any:
        return np.uint8

    @classmethod
    def _width(cls, dim: int) -> int:
        return (dim + 1) // 2

    @classmethod
    def _pack(cls, whole: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
        half = cls._width(whole.shape[1])
        padded = np.full((len(whole), 2 * half), _INT4_OFFSET, np.uint8)
        padded[:, : whole.shape[1]] = whole + np.int8(_INT4_OFFSET)
        return padded[:, :half] | padded[:, half:] << 4

    def _unpack(self, stored: npt.NDArray[Any], columns: slice) -> npt.NDArray[Any]:
        whole = np.concatenate([stored & 15, stored >> 4], axis=1)[:, : self._dim]
        return whole[:, columns].astype(np.int8) - np.int8(_INT4_OFFSET)
