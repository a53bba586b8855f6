"""CAFE's sketch around its kernels: free rows, the schedule of the decay, and the normalisation of scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluate.methods import kernels

__all__ = ["SLOT_BYTES", "CafeSketch", "Scorer"]

SLOT_BYTES = 12
_SLOTS = 4
_UNIT_BATCHES = 16

Ids = npt.NDArray[np.int64]


class Scorer:
    """Scales gradient norms to scores: a mean lookup scores about 1, so a threshold is a number of lookups.

    Args:
        how: `field` divides by the mean of the field in the batch, as published; `raw` divides by a constant, the mean
            of the first 16 batches.
        num_fields: F.
    """

    def __init__(self, how: str, num_fields: int) -> None:
        self._how, self._num_fields = how, num_fields
        self._sum, self._num_batches = 0.0, 0

    def __call__(
        self, gradient: npt.NDArray[np.float32], fields: npt.NDArray[np.int64] | None = None, batch_rows: int = 0
    ) -> npt.NDArray[np.float32]:
        """Scores (N,) of gradients (N, D), N = B F; of lists N is any number, with `fields` (N,) and B rows."""
        norms = np.linalg.norm(gradient, axis=1)
        if self._how == "field" and fields is not None:
            sums, counts = (np.bincount(fields, weights, self._num_fields) for weights in (norms, None))
            means = (sums / np.maximum(counts, 1)).astype(np.float32)
            return norms / np.maximum(means[fields], np.float32(1e-30))
        norms = norms.reshape(-1, self._num_fields) if fields is None else norms  # (B, F)
        if self._how == "field":
            return (norms / np.maximum(norms.mean(axis=0), 1e-30)).reshape(-1)
        # The norm of the gradient of the sum of the losses.
        norms = norms * (len(norms) if fields is None else batch_rows)
        if self._num_batches < _UNIT_BATCHES:
            self._num_batches += 1
            self._sum += float(norms.mean())
        unit = np.float32(max(self._sum / self._num_batches, 1e-30))
        return (norms / unit).reshape(-1)


class CafeSketch:
    """W buckets of four slots of 12 bytes (id, score, row), and the free rows.

    Args:
        num_buckets: W.
        num_rows: unique rows.
        threshold: the score above which a feature is hot.
        factor: the factor of the decay, which runs whenever the scores added since the last decay exceed 10 W
            thresholds.
        seed: seed of the hash.
    """

    def __init__(self, num_buckets: int, num_rows: int, *, threshold: float, factor: float, seed: int) -> None:
        self._ids = np.zeros((num_buckets, _SLOTS), np.int32)
        self._scores = np.zeros((num_buckets, _SLOTS), np.float32)
        self._rows = np.full((num_buckets, _SLOTS), -1, np.int32)
        self._free = np.arange(num_rows, dtype=np.int32)
        self._counts = np.array([num_rows, 0], np.int64)
        self._threshold, self._factor = np.float32(threshold), np.float32(factor)
        self._seed = np.uint64(seed)
        self._added = 0.0
        self.num_promoted = 0

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes of the slots, and of the list of free rows."""
        return {"slots": self._ids.nbytes + self._scores.nbytes + self._rows.nbytes, "free": self._free.nbytes}

    @property
    def num_demoted(self) -> int:
        """Demotions so far."""
        return int(self._counts[1])

    @property
    def num_hot(self) -> int:
        """Features with a unique row."""
        return len(self._free) - int(self._counts[kernels.NUM_FREE])

    def find(self, features: Ids) -> tuple[Ids, npt.NDArray[np.float32]]:
        """The rows (K,) of features, -1 without one, and their scores (K,)."""
        rows, scores = np.empty(len(features), np.int64), np.empty(len(features), np.float32)
        kernels.find(features, self._ids, self._scores, self._rows, self._seed, rows, scores)
        return rows, scores

    def insert(self, features: Ids, scores: npt.NDArray[np.float32]) -> tuple[Ids, Ids]:
        """Adds scores (K,); returns the indices of promoted features in `features`, and their rows, all distinct."""
        promoted = np.empty((len(features), 2), np.int64)
        tables: tuple[Any, ...] = (self._ids, self._scores, self._rows)
        count = kernels.insert(
            features, scores, *tables, self._seed, self._threshold, self._free, self._counts, promoted
        )
        self.num_promoted += count
        self._added += float(scores.sum(dtype=np.float64))
        if self._factor < 1 and self._added > 10 * len(self._ids) * float(self._threshold):
            kernels.decay(self._scores, self._rows, self._factor, self._threshold, self._free, self._counts)
            self._added = 0.0
        latest = promoted[:count][::-1]  # a row that changed owner belongs to the last one
        _, first = np.unique(latest[:, 1], return_index=True)
        return latest[first, 0], latest[first, 1]
