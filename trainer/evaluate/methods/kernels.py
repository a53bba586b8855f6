"""CAFE's own sketch, as published: Space-Saving in buckets of four, a hot feature's row in its slot.

W buckets, S slots; K lookups in order. ids are feature number + 1, and 0 is an empty slot.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sketch.hashing import mix64

__all__ = ["NUM_FREE", "decay", "find", "insert"]

NUM_FREE, NUM_DEMOTED = 0, 1  # places in `counts`
_HALF = np.uint64(32)


@njit(nogil=True, cache=True, inline="always")
def _bucket_of(word, num_buckets, seed):
    return np.int64((mix64(np.uint64(word) ^ seed) >> _HALF) * np.uint64(num_buckets) >> _HALF)


@njit(nogil=True, cache=True)
def find(features, slot_ids, slot_scores, slot_rows, seed, rows, scores):
    """Fills the row of each feature (K,), -1 if it has none, and its score, 0 if it is not held."""
    num_buckets, num_slots = slot_ids.shape
    for i in range(features.shape[0]):
        word = features[i] + 1
        bucket = _bucket_of(word, num_buckets, seed)
        rows[i] = -1
        scores[i] = 0
        for slot in range(num_slots):
            if slot_ids[bucket, slot] == word:
                rows[i] = slot_rows[bucket, slot]
                scores[i] = slot_scores[bucket, slot]
                break


@njit(nogil=True, cache=True)
def insert(features, added, slot_ids, slot_scores, slot_rows, seed, threshold, free, counts, promoted):
    """Adds scores (K,) to features (K,) in order; returns how many promotions there were.

    A newcomer to a full bucket takes the slot of the smallest score and adds to that score; if the slot was hot its
    row is free at once. Whatever is over the threshold and has no row gets one while there are free ones.

    Args:
        features: (K,) feature numbers.
        added: (K,) float32.
        slot_ids: (W, S) int32.
        slot_scores: (W, S) float32.
        slot_rows: (W, S) int32, -1 for a slot that is not hot.
        seed: of the hash.
        threshold: of being hot.
        free: a stack of rows.
        counts: (2,) int64: rows on the stack, demotions so far.
        promoted: (K, 2) int64, filled with the place in `features` and the row of each promotion.
    """
    num_buckets, num_slots = slot_ids.shape
    num_promoted = 0
    for i in range(features.shape[0]):
        word = features[i] + 1
        bucket = _bucket_of(word, num_buckets, seed)
        place = -1
        least = 0
        for slot in range(num_slots):
            if slot_ids[bucket, slot] == word or slot_ids[bucket, slot] == 0:
                place = slot
                break
            if slot_scores[bucket, slot] < slot_scores[bucket, least]:
                least = slot
        if place < 0:
            place = least
            if slot_rows[bucket, place] >= 0:
                free[counts[NUM_FREE]] = slot_rows[bucket, place]
                counts[NUM_FREE] += 1
                counts[NUM_DEMOTED] += 1
                slot_rows[bucket, place] = -1
        slot_ids[bucket, place] = word
        slot_scores[bucket, place] += added[i]
        if slot_rows[bucket, place] < 0 and slot_scores[bucket, place] > threshold and counts[NUM_FREE] > 0:
            counts[NUM_FREE] -= 1
            slot_rows[bucket, place] = free[counts[NUM_FREE]]
            promoted[num_promoted, 0] = i
            promoted[num_promoted, 1] = slot_rows[bucket, place]
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
