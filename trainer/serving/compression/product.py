"""`Product`: M codes a row, each the number of a piece in the book of its columns (product quantisation).

    codes (R, M) uint8      books (M, k, D / M) float16, the pieces of the columns m D / M to (m + 1) D / M

The books are common to all groups, and a row weighs as often as it is read (as MEC weighs by popularity).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.errors import CheckpointError
from trainer.serving.compression.codec import Arrays, Codec, Sample, Vectors, take, to_float16
from trainer.serving.compression.k_means import cluster, nearest

__all__ = ["Product"]

_MOST, _FEWEST = 256, 2  # pieces in a book


class Product(Codec):
    """Codes and books."""

    name = "pq"

    def __init__(self, codes: npt.NDArray[np.uint8], books: npt.NDArray[np.float16]) -> None:
        self._codes, self._books = codes, books

    @classmethod
    def _pieces(cls, sample: Sample, budget_bytes: int, parts: int) -> int:
        """How many pieces a book of so many parts can have; negative if the codes alone do not fit."""
        room = (budget_bytes - sample.num_rows * parts) // (2 * sample.dim)
        return min(_MOST, room, max(1, sample.num_rows))

    @classmethod
    def least_bytes(cls, sample: Sample) -> int:
        """As `Codec.least_bytes`: a code a row, and a book of two."""
        return sample.num_rows + 2 * sample.dim * min(_FEWEST, max(1, sample.num_rows))

    @classmethod
    def fit(cls, sample: Sample, budget_bytes: int) -> Codec:
        """As `Codec.fit`; of the numbers of codes that fit, the one with the smallest error."""
        cls.require_bytes(sample, budget_bytes)
        fewest = min(_FEWEST, max(1, sample.num_rows))
        parts = [number for number in range(1, sample.dim + 1) if sample.dim % number == 0]
        sizes = {number: cls._pieces(sample, budget_bytes, number) for number in parts}
        every = np.arange(sample.num_rows)
        fitted = [cls._fit(sample, number, size) for number, size in sizes.items() if size >= fewest]
        return min(fitted, key=lambda one: sample.error(one.decode(every, sample.groups)))

    @classmethod
    def _fit(cls, sample: Sample, parts: int, size: int) -> Codec:
        rng, width = np.random.default_rng(sample.seed), sample.dim // parts
        codes = np.empty((sample.num_rows, parts), np.uint8)
        books = np.zeros((parts, size, width), np.float16)
        for part in range(parts):
            pieces = np.ascontiguousarray(sample.vectors[:, part * width : (part + 1) * width])
            book = to_float16(cls.name, cluster(pieces, sample.weights, size, rng))
            books[part, : len(book)] = book
            codes[:, part] = nearest(pieces, book.astype(np.float32)) if len(pieces) else 0
        return cls(codes, books)

    @classmethod
    def load(cls, arrays: Arrays, *, num_rows: int, dim: int, num_groups: int) -> Codec:  # noqa: ARG003
        """As `Codec.load`."""
        codes = take(arrays, "codes", (np.uint8,), (num_rows, None))
        parts = codes.shape[1]
        if not parts or dim % parts:
            raise CheckpointError(f"compressed rows: codes: got {parts} a row, expected a divisor of {dim}")
        books = take(arrays, "books", (np.float16,), (parts, None, dim // parts))
        if codes.size and codes.max() >= books.shape[1]:
            raise CheckpointError(f"compressed rows: codes: got {codes.max()}, expected less than {books.shape[1]}")
        return cls(codes, books)

    def arrays(self) -> Arrays:
        """As `Codec.arrays`."""
        return {"codes": self._codes, "books": self._books}

    def decode(self, rows: npt.NDArray[Any], groups: npt.NDArray[Any], columns: slice = slice(None)) -> Vectors:  # noqa: ARG002
        """As `Codec.decode`; only the parts that the columns touch are read."""
        parts, _, width = self._books.shape
        start, stop, _ = columns.indices(parts * width)
        first, last = start // width, -(-stop // width)
        wanted = np.arange(first, last)
        pieces = self._books[wanted, self._codes[rows, first:last]]  # (K, parts, D / M)
        vectors = pieces.reshape(len(pieces), len(wanted) * width)[:, start - first * width : stop - first * width]
        return vectors.astype(np.float32)
