"""`LowRank`: a mean and r coefficients a row, in the principal directions of what is read (AFM, KDD'24).

    vector = mean (D,) + sum over r of coefficient (R, r) int8, times its scale (r,), times direction (r, D)

A row weighs as often as it is read. The largest ratio is D: one coefficient a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.errors import CheckpointError
from trainer.serving.compression.codec import Arrays, Codec, Sample, Vectors, take

__all__ = ["LowRank"]

_LIMIT = 127
_SPREAD = 6.0  # what exceeds so many standard deviations is cut


class LowRank(Codec):
    """Coefficients in a common basis."""

    name = "low-rank"

    def __init__(self, coefficients: npt.NDArray[np.int8], scales: Vectors, directions: Vectors, mean: Vectors) -> None:
        self._coefficients, self._scales, self._directions, self._mean = coefficients, scales, directions, mean

    @classmethod
    def _bytes_of(cls, sample: Sample, rank: int) -> int:
        return rank * (sample.num_rows + 4 * sample.dim + 4) + 4 * sample.dim

    @classmethod
    def least_bytes(cls, sample: Sample) -> int:
        """As `Codec.least_bytes`: one direction."""
        return cls._bytes_of(sample, 1)

    @classmethod
    def fit(cls, sample: Sample, budget_bytes: int) -> Codec:
        """As `Codec.fit`: as many directions as fit, D at most."""
        cls.require_bytes(sample, budget_bytes)
        rank = max(one for one in range(1, sample.dim + 1) if cls._bytes_of(sample, one) <= budget_bytes or one == 1)
        total = sample.weights.sum()
        shares = sample.weights / total if total > 0 else np.full(sample.num_rows, 1 / max(1, sample.num_rows))
        mean = (shares @ sample.vectors).astype(np.float32)
        centred = sample.vectors - mean
        moment = (centred * shares[:, None]).T @ centred
        directions = np.linalg.eigh(moment).eigenvectors[:, ::-1][:, :rank].T.astype(np.float32)  # (r, D)
        coefficients = centred @ directions.T
        deviations = np.sqrt(shares @ np.square(coefficients, dtype=np.float64))
        peaks = np.minimum(np.abs(coefficients).max(axis=0, initial=0.0), _SPREAD * deviations)
        scales = (np.where(peaks > 0, peaks, 1.0) / _LIMIT).astype(np.float32)
        whole = np.clip(np.rint(coefficients / scales), -_LIMIT, _LIMIT).astype(np.int8)
        return cls(whole, scales, np.ascontiguousarray(directions), mean)

    @classmethod
    def load(cls, arrays: Arrays, *, num_rows: int, dim: int, num_groups: int) -> Codec:  # noqa: ARG003
        """As `Codec.load`."""
        coefficients = take(arrays, "coefficients", (np.int8,), (num_rows, None))
        if not (rank := coefficients.shape[1]):
            raise CheckpointError("compressed rows: coefficients: got 0 a row, expected 1 or more")
        scales = take(arrays, "scales", (np.float32,), (rank,))
        directions = take(arrays, "directions", (np.float32,), (rank, dim))
        return cls(coefficients, scales, directions, take(arrays, "mean", (np.float32,), (dim,)))

    def arrays(self) -> Arrays:
        """As `Codec.arrays`."""
        return {
            "coefficients": self._coefficients,
            "scales": self._scales,
            "directions": self._directions,
            "mean": self._mean,
        }

    def decode(self, rows: npt.NDArray[Any], groups: npt.NDArray[Any], columns: slice = slice(None)) -> Vectors:  # noqa: ARG002
        """As `Codec.decode`; a matrix product would round differently for other numbers of rows."""
        coefficients = self._coefficients[rows].astype(np.float32)
        scaled = self._directions[:, columns] * self._scales[:, None]
        vectors = np.repeat(self._mean[None, columns], len(coefficients), axis=0)
        for number, direction in enumerate(scaled):
            vectors += coefficients[:, number : number + 1] * direction
        return vectors
