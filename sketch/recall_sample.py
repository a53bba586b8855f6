"""`RecallSample`: how many of the features that matter most are hot, estimated from exact scores of a sample."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.hashing import GOLDEN_RATIO

__all__ = ["RecallSample"]

Keys = npt.NDArray[np.uint64]
Scores = npt.NDArray[np.float64]

_FEW_BEST, _MANY_BEST = 16, 64  # of the features that should be hot, in the sample
_FEW_BITS = 5  # a sample of at most one feature in 32 costs hardly more than looking at each one
_SLOT_BITS = 13
_SLOTS = 1 << _SLOT_BITS
_MOST_USED, _KEPT = _SLOTS // 2, _SLOTS // 8
_BUCKET_SHIFT = np.uint64(50)  # of a double: its exponent and two bits of its mantissa
_NUM_BUCKETS = 1 << 13
_MOST_EXPONENT = 500.0  # of a weight; a double holds 2^1023


class RecallSample:
    """Counts the features whose hash begins with enough zero bits, so that 16 to 128 of the best ones are among them.

    Every feature is in the sample or not, whatever its score; so the share of the sample's n best features that is hot
    estimates that of all. The standard error is about sqrt(recall * (1 - recall) / n), and less over several shards.
    The hash is multiplicative: keys that follow each other are spread evenly.

    Memory: 128 KiB. When the sample has 4,096 features, it keeps the best 1,024.

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
        self._bits = _bits_of(capacity)
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
        weight = 2.0 ** self._exponent(moment)
        self._num_used = _count(keys, scores, weight, self._bits, self._keys, self._scores, self._num_used)
        self._is_complete |= moment - self._first >= self._half_life

    def _exponent(self, moment: float) -> float:
        """Of the weight of an event: later ones weigh more, instead of earlier ones less."""
        exponent = (moment - (self._origin or 0.0)) / self._half_life
        if exponent <= _MOST_EXPONENT:
            return exponent
        keys, scores = self._entries()
        self._scores[:] = 0
        self._num_used = _refill(keys, scores * 2.0 ** -min(exponent, 2 * _MOST_EXPONENT), self._keys, self._scores)
        self._origin = moment
        return 0.0

    def _entries(self) -> tuple[Keys, Scores]:
        used = self._scores > 0
        return self._keys[used], self._scores[used]

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


def _bits_of(capacity: int) -> int:
    """The number of zero bits."""
    few, many = (max(0, int(math.log2(max(capacity / best, 1.0)))) for best in (_FEW_BEST, _MANY_BEST))
    return few if few < _FEW_BITS else max(_FEW_BITS, many)


@njit(nogil=True, cache=True)
def _find(key, table, sums):  # type: ignore[no-untyped-def]
    """The slot of a key, or the empty one that it would have."""
    slot = np.int64((key * GOLDEN_RATIO >> np.uint64(32)) & np.uint64(_SLOTS - 1))
    while sums[slot] > 0.0 and table[slot] != key:
        slot = (slot + 1) & (_SLOTS - 1)
    return slot


@njit(nogil=True, cache=True)
def _refill(keys, scores, table, sums):  # type: ignore[no-untyped-def]
    """Puts distinct keys into an empty table; returns the number of those whose score is not 0."""
    used = 0
    for index in range(len(keys)):
        slot = _find(keys[index], table, sums)
        table[slot], sums[slot] = keys[index], scores[index]
        used += scores[index] > 0.0
    return used


@njit(nogil=True, cache=True)
def _keep_best(table, sums):  # type: ignore[no-untyped-def]
    """Empties the table but for the best scores, whose order counts to 25 %; returns the number of used slots."""
    buckets = np.zeros(_NUM_BUCKETS, np.int32)
    words = sums.view(np.uint64)
    for slot in range(_SLOTS):
        buckets[np.int64(words[slot] >> _BUCKET_SHIFT)] += sums[slot] > 0.0
    least, better = _NUM_BUCKETS - 1, 0
    while better + buckets[least] < _KEPT:
        better += buckets[least]
        least -= 1
    keys, scores, kept, equal = np.empty(_KEPT, np.uint64), np.empty(_KEPT, np.float64), 0, _KEPT - better
    for slot in range(_SLOTS):
        bucket = np.int64(words[slot] >> _BUCKET_SHIFT)
        if sums[slot] > 0.0 and bucket >= least and (bucket > least or equal > 0):
            equal -= bucket == least
            keys[kept], scores[kept] = table[slot], sums[slot]
            kept += 1
    sums[:] = 0.0
    return _refill(keys[:kept], scores[:kept], table, sums)


@njit(nogil=True, cache=True)
def _count(keys, scores, weight, bits, table, sums, used):  # type: ignore[no-untyped-def]
    """Adds the scores of the keys of the sample; returns the number of used slots."""
    least = np.uint64(1) << np.uint64(64 - bits) if bits else np.uint64(0)
    for index in range(len(keys)):
        key = keys[index]
        if bits and key * GOLDEN_RATIO >= least:
            continue
        score = np.float64(scores[index]) * weight
        if not 0.0 < score < np.inf:
            continue
        slot = _find(key, table, sums)
        if sums[slot] == 0.0:
            if used == _MOST_USED:
                used = _keep_best(table, sums)
                slot = _find(key, table, sums)
            table[slot] = key
            used += 1
        sums[slot] += score
    return used
