"""CAFE+'s sketch: a window that admits features to CAFE's buckets, a threshold that sets itself, and a lazy decay."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluate.methods import kernels, plus_kernels
from trainer.evaluate.methods.cafe_sketch import CafeSketch, Ids

__all__ = ["PlusSketch"]

_WINDOW_PART = 10  # one bucket in ten
_ADMISSION = 5.0
_EXCESS = 1.2
_MOST_SCALE = 1e4


class PlusSketch(CafeSketch):
    """Main buckets as in `CafeSketch`, and window buckets of four slots of 12 bytes (id, score, time of the last use).

    Args:
        num_buckets: W, the window's included; 2 or more.
        num_rows: unique rows.
        growth: the factor by which added scores grow from one call of `insert` to the next, 1 or more.
        seed: seed of the hash.
        threshold: the score above which a feature is hot, until it is adjusted.
    """

    def __init__(self, num_buckets: int, num_rows: int, *, growth: float, seed: int, threshold: float = 1.0) -> None:
        num_window = max(1, num_buckets // _WINDOW_PART)
        super().__init__(num_buckets - num_window, num_rows, threshold=threshold, factor=1.0, seed=seed)
        shape = (num_window, self._ids.shape[1])
        self._window = (np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape, np.int32))
        self._growth, self._scale, self._clock = growth, 1.0, 0

    @property
    def nbytes(self) -> dict[str, int]:
        """As `CafeSketch.nbytes`, the window's slots included."""
        sizes = super().nbytes
        return {**sizes, "slots": sizes["slots"] + sum(array.nbytes for array in self._window)}

    @property
    def threshold(self) -> float:
        """The score, as of now, above which a feature is hot."""
        return float(self._threshold)

    def insert(self, features: Ids, scores: npt.NDArray[np.float32]) -> tuple[Ids, Ids]:
        """As `CafeSketch.insert`; features without a slot go to the window first."""
        self._grow()
        promoted = np.empty((len(features), 2), np.int64)
        tables: tuple[Any, ...] = (self._ids, self._scores, self._rows, *self._window)
        limits = np.array([self._threshold, _ADMISSION], np.float64) * self._scale
        added = scores * np.float32(self._scale)
        self._clock += 1
        count = plus_kernels.insert(
            features,
            added,
            *tables,
            self._clock,
            self._seed,
            limits.astype(np.float32),
            self._free,
            self._counts,
            promoted,
        )
        self.num_promoted += count
        return promoted[:count, 0], promoted[:count, 1]

    def adjust(self) -> tuple[Ids, Ids]:
        """Moves rows to the highest scores if too many features exceed the threshold, which then rises, or some wait.

        Returns:
            Features (M,) that get rows, and the rows (M,).
        """
        num_rows, flat = len(self._free), self._scores.reshape(-1)
        is_candidate = flat > self._threshold * np.float32(self._scale)
        has_row = self._rows.reshape(-1) >= 0
        is_excess = is_candidate.sum() > _EXCESS * num_rows
        if not is_excess and not self._is_outdated(is_candidate, has_row):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        slots = np.flatnonzero(is_candidate | has_row)
        best = slots[np.argsort(-flat[slots], kind="stable")][:num_rows]
        if is_excess:
            self._threshold = np.float32(flat[best[-1]] / self._scale)
        return self._move(best)

    def _is_outdated(self, is_candidate: npt.NDArray[np.bool_], has_row: npt.NDArray[np.bool_]) -> bool:
        """Whether rows of features that fell below the threshold are missing to others that exceed it."""
        if self._counts[kernels.NUM_FREE] > 0:
            return False
        return bool((has_row & ~is_candidate).any() and (is_candidate & ~has_row).any())

    def _move(self, best: Ids) -> tuple[Ids, Ids]:
        """Takes the rows of all slots but `best`, and gives them to those of `best` without one."""
        rows, ids = self._rows.reshape(-1), self._ids.reshape(-1)
        losers = np.setdiff1d(np.flatnonzero(rows >= 0), best)
        num_free = int(self._counts[kernels.NUM_FREE])
        free = np.concatenate([self._free[:num_free], rows[losers]])
        rows[losers] = -1
        winners = best[rows[best] < 0]
        rows[winners] = free[: len(winners)]
        rest = free[len(winners) :]
        self._free[: len(rest)] = rest
        self._counts[:] = len(rest), self._counts[kernels.NUM_DEMOTED] + len(losers)
        self.num_promoted += len(winners)
        return ids[winners].astype(np.int64) - 1, rows[winners].astype(np.int64)

    def _grow(self) -> None:
        """Grows the scale of added scores; a large one is divided out of all scores."""
        self._scale *= self._growth
        if self._scale > _MOST_SCALE:
            self._scores /= np.float32(self._scale)
            self._window[1][:] /= np.float32(self._scale)
            self._scale = 1.0
