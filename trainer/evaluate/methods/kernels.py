"""The kernels of CAFE's sketch as published: Space-Saving in buckets of four, with a hot feature's row in its slot.

W buckets, S slots; K lookups in order. An id is the feature number + 1; 0 is an empty slot.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sketch.hashing import mix64

__all__ = ["NUM_DEMOTED", "NUM_FREE", "bucket_of", "decay", "find", "insert"]

NUM_FREE, NUM_DEMOTED = 0, 1  # indices in `counts`
_HALF = np.uint64(32)


@njit(nogil=True, cache=True, inline="always")
def bucket_of(word, num_buckets, seed):
    """The bucket of an id."""
    return np.int64((mix64(np.uint64(word) ^ seed) >> _HALF) * np.uint64(num_buckets) >> _HALF)


@njit(nogil=True, cache=True)
def find(features, slot_ids, slot_scores, slot_rows, seed, rows, scores):
    """Looks up the row of each feature (K,), -1 without one, and its score, 0 if it has no slot."""
    num_buckets, num_slots = slot_ids.shape
    for i in range(features.shape[0]):
        word = features[i] + 1
        bucket = bucket_of(word, num_buckets, seed)
        rows[i] = -1
        scores[i] = 0
        for slot in range(num_slots):
            if slot_ids[bucket, slot] == word:
                rows[i] = slot_rows[bucket, slot]
                scores[i] = slot_scores[bucket, slot]
                break


@njit(nogil=True, cache=True)
def insert(features, added, slot_ids, slot_scores, slot_rows, seed, threshold, free, counts, promoted):
    """Adds scores (K,) to features (K,) in order; returns the number of promotions.

    A new feature in a full bucket takes the slot with the smallest score and adds to that score; if the slot was hot,
    its row becomes free. A feature over the threshold without a row gets one if any is free.

    Args:
        features: (K,) feature numbers.
        added: (K,) float32.
        slot_ids: (W, S) int32.
        slot_scores: (W, S) float32.
        slot_rows: (W, S) int32, -1 for a slot that is not hot.
        seed: seed of the hash.
        threshold: the score above which a feature is hot.
        free: a stack of rows.
        counts: (2,) int64: rows on the stack, demotions so far.
        promoted: (K, 2) int64, filled with the index in `features` and the row of each promotion.
    """
    num_buckets, num_slots = slot_ids.shape
    num_promoted = 0
    for i in range(features.shape[0]):
        word = features[i] + 1
        bucket = bucket_of(word, num_buckets, seed)
        chosen = -1
        least = 0
        for slot in range(num_slots):
            if slot_ids[bucket, slot] == word or slot_ids[bucket, slot] == 0:
                chosen = slot
                break
            if slot_scores[bucket, slot] < slot_scores[bucket, least]:
                least = slot
        if chosen < 0:
            chosen = least
            if slot_rows[bucket, chosen] >= 0:
                free[counts[NUM_FREE]] = slot_rows[bucket, chosen]
                counts[NUM_FREE] += 1
                counts[NUM_DEMOTED] += 1
                slot_rows[bucket, chosen] = -1
        slot_ids[bucket, chosen] = word
        slot_scores[bucket, chosen] += added[i]
        if slot_rows[bucket, chosen] < 0 and slot_scores[bucket, chosen] > threshold and counts[NUM_FREE] > 0:
            counts[NUM_FREE] -= 1
            slot_rows[bucket, chosen] = free[counts[NUM_FREE]]
            promoted[num_promoted, 0] = i
            promoted[num_promoted, 1] = slot_rows[bucket, chosen]
            num_promoted += 1
    return num_promoted


@njit(nogil=True, cache=True)
def decay(slot_scores, slot_rows, factor, threshold, free, counts):
    """Multiplies every score; a hot slot that falls below the threshold loses its row."""
    for bucket in range(slot_scores.shape[0]):
        for slot in range(slot_scores.shape[1]):
            slot_scores[bucket, slot] *= factor
            if slot_rows[bucket, slot] >= 0 and slot_scores[bucket, slot] < threshold:
                free[counts[NUM_FREE]] = slot_rows[bucket, slot]
                counts[NUM_FREE] += 1
                counts[NUM_DEMOTED] += 1
                slot_rows[bucket, slot] = -1
