"""`RecallSample`: how many of the features that matter most are hot, estimated from exact scores of a sample."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.hashing import mix64

__all__ = ["RecallSample"]

Keys = npt.NDArray[np.uint64]
Scores = npt.NDArray[np.float64]

_SEED = np.uint64(0x52454341_4C4C0001)  # "RECALL", 1: independent of shards and buckets
_LEAST_BEST = 32  # of the features that should be hot, in the sample
_SLOTS = 8192
_SLOT_SHIFT = np.uint64(40)
_SLOT_MASK = np.uint64(_SLOTS - 1)
_MOST_USED, _KEPT = _SLOTS // 2, _SLOTS // 4
_MOST_EXPONENT = 500.0  # of a weight; a double holds 2^1023


class RecallSample:
    """Counts the features whose hash ends with enough zero bits, so that 32 to 64 of the best ones are among them.

    Every feature is in the sample or not, whatever its score; so the share of the sample's best features that is hot
    estimates that of all. The standard error is about sqrt(recall * (1 - recall) / 32), and less over several shards.

    Memory: 128 KiB. When the sample has 4,096 features, it keeps the best 2,048.

    Args:
        capacity: the most features that are hot at once.
        half_life: in the unit of the moments; `math.inf` for scores that do not decay.
        is_complete: whether the sample begins with the first event. Otherwise there is no estimate before it has seen
            a half-life.

    >>> sample = RecallSample(2, half_life=math.inf)
    >>> sample.add(np.array([1, 1, 1, 2, 2, 3], np.uint64), np.ones(6, np.float32), 6)
    >>> sample.estimate(lambda keys: keys == 1, num_hot=1)
    0.5
    """

    def __init__(self, capacity: int, *, half_life: float, is_complete: bool = True) -> None:
        self._capacity = capacity
        self._bits = int(math.log2(capacity / _LEAST_BEST)) if capacity > _LEAST_BEST else 0
        self._half_life, self._is_complete = half_life, is_complete
        self._keys: Keys = np.zeros(_SLOTS, np.uint64)
        self._scores: Scores = np.zeros(_SLOTS, np.float64)  # 0 in an empty slot
        self._num_used = 0
        self._origin: float | None = None  # the moment whose events have the weight 1
        self._first = 0.0

    def add(self, keys: Keys, scores: npt.NDArray[np.float32], moment: float) -> None:
        """Counts a batch of events.

        Args:
            keys: uint64, shape (n,).
            scores: float32, shape (n,); those that are not finite and positive do not count.
            moment: the time of the batch, in the unit of the half-life; it never decreases.
        """
        if self._origin is None:
            self._origin = self._first = moment
        weight, mask, begin = 2.0 ** self._exponent(moment), np.uint64((1 << self._bits) - 1), 0
        while begin < len(keys):
            begin, self._num_used = _count(
                keys, scores, begin, weight, mask, self._keys, self._scores, self._num_used
            )  # fmt: skip
            if begin < len(keys):
                self._forget_lowest()
        self._is_complete |= moment - self._first >= self._half_life

    def _exponent(self, moment: float) -> float:
        """Of the weight of an event: later ones weigh more, instead of earlier ones less."""
        exponent = (moment - (self._origin or 0.0)) / self._half_life
        if exponent <= _MOST_EXPONENT:
            return exponent
        self._refill(*self._entries(), 2.0 ** -min(exponent, 2 * _MOST_EXPONENT))
        self._origin = moment
        return 0.0

    def _entries(self) -> tuple[Keys, Scores]:
        used = self._scores > 0
        return self._keys[used], self._scores[used]

    def _forget_lowest(self) -> None:
        keys, scores = self._entries()
        kept = np.argpartition(-scores, _KEPT)[:_KEPT]
        self._refill(keys[kept], scores[kept], 1.0)

    def _refill(self, keys: Keys, scores: Scores, weight: float) -> None:
        self._scores[:] = 0
        _, self._num_used = _count(keys, scores, 0, weight, np.uint64(0), self._keys, self._scores, 0)

    def estimate(self, is_hot: Callable[[Keys], npt.NDArray[np.bool_]], *, num_hot: int) -> float | None:
        """The share of the features that should be hot which are, 0 to 1; None as long as it is unknown.

        Args:
            is_hot: whether each of some keys is hot.
            num_hot: the number of hot features.
        """
        keys, scores = self._entries()
        if not self._is_complete or not len(keys):
            return None
        found = is_hot(keys)
        # As many of the sample as its share of the hot ones, so that the chance which has chosen it does not count.
        share = np.count_nonzero(found) / num_hot if found.any() else 2.0**-self._bits
        num_best = min(max(1, round(self._capacity * share)), len(keys))
        least = np.partition(scores, -num_best)[-num_best]
        return min(int(np.count_nonzero(found[scores >= least])), num_best) / num_best  # of equal scores any may be hot


@njit(nogil=True, cache=True)
def _count(keys, scores, begin, weight, mask, table, sums, num_used):  # type: ignore[no-untyped-def]
    """Adds scores until the table is half full; returns the index of the next event, and the number of used slots."""
    for index in range(begin, len(keys)):
        key, score = keys[index], np.float64(scores[index])
        word = mix64(key ^ _SEED)
        if word & mask or not 0.0 < score < np.inf:
            continue
        slot = (word >> _SLOT_SHIFT) & _SLOT_MASK
        while sums[slot] > 0.0 and table[slot] != key:
            slot = (slot + np.uint64(1)) & _SLOT_MASK
        if sums[slot] == 0.0:
            if num_used == _MOST_USED:
                return index, num_used
            num_used += score * weight > 0.0
            table[slot] = key
        sums[slot] += score * weight
    return len(keys), num_used
