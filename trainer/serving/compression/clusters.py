"""`Clusters`: each row is the number of a centroid of its group (Saec, APSys'20; arXiv 1903.00103).

    codes (R,)  uint8 or uint16, within the group      starts (G + 1,) the first centroid of each group
    centroids (C, D) as `Int8`

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
from trainer.serving.compression.rounded import Int8

__all__ = ["Clusters"]

_START_BYTES = 4
_CODES: tuple[Any, ...] = (np.uint8, np.uint16)
_CENTROIDS = {"values": "centroids", "scales": "centroid_scales"}  # names of `Int8` and of the file


class Clusters(Codec):
    """Codes and centroids."""

    name = "saec"

    def __init__(self, codes: npt.NDArray[Any], starts: npt.NDArray[np.int32], centroids: Codec) -> None:
        self._codes, self._starts, self._centroids = codes, starts, centroids

    @classmethod
    def _fixed_bytes(cls, sample: Sample, dtype: Any) -> int:
        return sample.num_rows * np.dtype(dtype).itemsize + _START_BYTES * (sample.num_groups + 1)

    @classmethod
    def least_bytes(cls, sample: Sample) -> int:
        """As `Codec.least_bytes`: codes of one byte, and a centroid for each group that has rows."""
        used = len(np.unique(sample.groups))
        return cls._fixed_bytes(sample, np.uint8) + Int8.vector_bytes(sample.dim) * used

    @classmethod
    def fit(cls, sample: Sample, budget_bytes: int) -> Codec:
        """As `Codec.fit`; the codes are as wide as gives more centroids."""
        cls.require_bytes(sample, budget_bytes)
        sizes = np.bincount(sample.groups, minlength=sample.num_groups)
        read = np.bincount(sample.groups[sample.weights > 0], minlength=sample.num_groups)
        plans = []
        for dtype in _CODES:
            room = (budget_bytes - cls._fixed_bytes(sample, dtype)) // Int8.vector_bytes(sample.dim)
            if room >= np.count_nonzero(sizes):
                plans.append((_shares(np.minimum(sizes, np.iinfo(dtype).max + 1), read, room), dtype))
        counts, dtype = max(plans, key=lambda plan: int(plan[0].sum()))
        return cls._fit(sample, counts, dtype)

    @classmethod
    def _fit(cls, sample: Sample, counts: npt.NDArray[np.int64], dtype: Any) -> Codec:
        rng, codes = np.random.default_rng(sample.seed), np.zeros(sample.num_rows, dtype)
        members = [np.flatnonzero(sample.groups == group) for group in range(sample.num_groups)]
        found = [
            cluster(sample.vectors[rows], sample.weights[rows], count, rng)
            for rows, count in zip(members, counts.tolist(), strict=True)
        ]
        starts = np.cumsum([0, *map(len, found)]).astype(np.int32)
        centroids = Int8.rounded(np.concatenate(found))
        rounded = centroids.decode(np.arange(starts[-1]), codes)
        for rows, start, stop in zip(members, starts[:-1], starts[1:], strict=True):
            codes[rows] = nearest(sample.vectors[rows], rounded[start:stop])
        return cls(codes, starts, centroids)

    @classmethod
    def load(cls, arrays: Arrays, *, num_rows: int, dim: int, num_groups: int) -> Codec:
        """As `Codec.load`."""
        codes = take(arrays, "codes", _CODES, (num_rows,))
        starts = take(arrays, "starts", (np.int32,), (num_groups + 1,))
        if starts[0] != 0 or (np.diff(starts) < 0).any():
            raise CheckpointError(f"compressed rows: starts: got {starts.tolist()}, expected ascending from 0")
        stored = {part: arrays[name] for part, name in _CENTROIDS.items() if name in arrays}
        return cls(codes, starts, Int8.load(stored, num_rows=int(starts[-1]), dim=dim, num_groups=1))

    def check_groups(self, groups: npt.NDArray[Any]) -> None:
        """As `Codec.check_groups`."""
        sizes = np.diff(self._starts)
        if (self._codes >= sizes[groups]).any():
            raise CheckpointError("compressed rows: codes: got one that names no centroid of its field")

    def arrays(self) -> Arrays:
        """As `Codec.arrays`."""
        centroids = self._centroids.arrays()
        return {
            "codes": self._codes,
            "starts": self._starts,
            **{name: centroids[part] for part, name in _CENTROIDS.items()},
        }

    def decode(self, rows: npt.NDArray[Any], groups: npt.NDArray[Any], columns: slice = slice(None)) -> Vectors:
        """As `Codec.decode`."""
        return self._centroids.decode(self._starts[groups] + self._codes[rows], groups, columns)


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
