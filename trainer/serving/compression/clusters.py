"""`Clusters`: each row is the number of a centroid of its group (Saec, APSys'20; arXiv 1903.00103).

    codes (R,)  uint8 or uint16, within the group      starts (G + 1,) the first centroid of each group
    centroids (C, D) float16

Kept of the paper: clusters within a field, important features first, all others to the nearest centroid. A row weighs
as often as it is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.errors import CheckpointError
from trainer.serving.compression.codec import Arrays, Codec, Sample, Vectors, take
from trainer.serving.compression.k_means import cluster, nearest

__all__ = ["Clusters"]

_START_BYTES = 4
_CODES: tuple[Any, ...] = (np.uint8, np.uint16)


class Clusters(Codec):
    """Codes and centroids."""

    name = "saec"

    def __init__(
        self, codes: npt.NDArray[Any], starts: npt.NDArray[np.int32], centroids: npt.NDArray[np.float16]
    ) -> None:
        self._codes, self._starts, self._centroids = codes, starts, centroids

    @classmethod
    def _fixed_bytes(cls, sample: Sample, dtype: Any) -> int:
        return sample.num_rows * np.dtype(dtype).itemsize + _START_BYTES * (sample.num_groups + 1)

    @classmethod
    def least_bytes(cls, sample: Sample) -> int:
        """As `Codec.least_bytes`: codes of one byte, and a centroid for each group that has rows."""
        used = len(np.unique(sample.groups))
        return cls._fixed_bytes(sample, np.uint8) + 2 * sample.dim * used

    @classmethod
    def fit(cls, sample: Sample, budget_bytes: int) -> Codec:
        """As `Codec.fit`; the codes are as wide as gives more centroids."""
        cls.require_bytes(sample, budget_bytes)
        sizes = np.bincount(sample.groups, minlength=sample.num_groups)
        read = np.bincount(sample.groups[sample.weights > 0], minlength=sample.num_groups)
        plans = []
        for dtype in _CODES:
            room = (budget_bytes - cls._fixed_bytes(sample, dtype)) // (2 * sample.dim)
            if room >= np.count_nonzero(sizes):
                plans.append((_shares(np.minimum(sizes, np.iinfo(dtype).max + 1), read, room), dtype))
        counts, dtype = max(plans, key=lambda plan: int(plan[0].sum()))
        return cls._fit(sample, counts, dtype)

    @classmethod
    def _fit(cls, sample: Sample, counts: npt.NDArray[np.int64], dtype: Any) -> Codec:
        rng, codes = np.random.default_rng(sample.seed), np.zeros(sample.num_rows, dtype)
        found: list[npt.NDArray[np.float16]] = []
        for group, count in enumerate(counts.tolist()):
            rows = np.flatnonzero(sample.groups == group)
            if not len(rows):
                found.append(np.empty((0, sample.dim), np.float16))
                continue
            vectors = sample.vectors[rows]
            centroids = cluster(vectors, sample.weights[rows], count, rng).astype(np.float16)
            codes[rows] = nearest(vectors, centroids.astype(np.float32))
            found.append(centroids)
        starts = np.cumsum([0, *map(len, found)]).astype(np.int32)
        return cls(codes, starts, np.concatenate(found))

    @classmethod
    def load(cls, arrays: Arrays, *, num_rows: int, dim: int, num_groups: int) -> Codec:
        """As `Codec.load`."""
        codes = take(arrays, "codes", _CODES, (num_rows,))
        starts = take(arrays, "starts", (np.int32,), (num_groups + 1,))
        centroids = take(arrays, "centroids", (np.float16,), (None, dim))
        if starts[0] != 0 or starts[-1] != len(centroids) or (np.diff(starts) < 0).any():
            raise CheckpointError(f"compressed rows: starts: got {starts.tolist()}, expected 0 to {len(centroids)}")
        return cls(codes, starts, centroids)

    def check_groups(self, groups: npt.NDArray[Any]) -> None:
        """As `Codec.check_groups`."""
        sizes = np.diff(self._starts)
        if (self._codes >= sizes[groups]).any():
            raise CheckpointError("compressed rows: codes: got one that names no centroid of its field")

    def arrays(self) -> Arrays:
        """As `Codec.arrays`."""
        return {"codes": self._codes, "starts": self._starts, "centroids": self._centroids}

    def decode(self, rows: npt.NDArray[Any], groups: npt.NDArray[Any], columns: slice = slice(None)) -> Vectors:
        """As `Codec.decode`."""
        return self._centroids[self._starts[groups] + self._codes[rows], columns].astype(np.float32)


def _shares(limits: npt.NDArray[np.int64], read: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
    """Centroids of each group (G,): in proportion to its rows that are read, at least 1 if it has any row.

    Args:
        limits: (G,) the most that a group can use.
        read: (G,) its rows that are read.
        total: the most of all groups together; what a group cannot use goes to the others, the largest first.
    """
    at_least = np.minimum(limits, 1)
    shares = np.minimum(limits, at_least + (total - int(at_least.sum())) * read // max(1, int(read.sum())))
    spare = total - int(shares.sum())
    for group in np.argsort(-read, kind="stable").tolist():
        added = min(spare, int(limits[group] - shares[group]))
        shares[group] += added
        spare -= added
    return shares.astype(np.int64)
