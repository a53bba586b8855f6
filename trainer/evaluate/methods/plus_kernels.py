"""The kernel of CAFE+'s sketch: main buckets as in `kernels`, behind a window of the features used last."""

from __future__ import annotations

from numba import njit

from trainer.evaluate.methods.kernels import NUM_FREE, bucket_of

__all__ = ["insert"]


@njit(nogil=True, cache=True, inline="always")
def _slot_of(ids, bucket, word):
    for slot in range(ids.shape[1]):
        if ids[bucket, slot] == word:
            return slot
    return -1


@njit(nogil=True, cache=True)
def _admit(word, score, ids, scores, rows, seed):
    """Moves a feature to the empty, or else the smallest, main slot without a row; returns it, -1 if all have rows."""
    bucket = bucket_of(word, ids.shape[0], seed)
    chosen = -1
    for slot in range(ids.shape[1]):
        if rows[bucket, slot] < 0 and (chosen < 0 or scores[bucket, slot] < scores[bucket, chosen]):
            chosen = slot
    if chosen >= 0:
        ids[bucket, chosen] = word
        scores[bucket, chosen] += score
    return chosen


@njit(nogil=True, cache=True)
def _enter(word, ids, scores, times, seed, now, main_ids, main_scores, main_rows, admission):
    """Gives a new feature the window slot used longest ago, whose feature moves to the main part or is forgotten."""
    bucket = bucket_of(word, ids.shape[0], seed)
    oldest = 0
    for slot in range(ids.shape[1]):
        if times[bucket, slot] < times[bucket, oldest]:
            oldest = slot
    if ids[bucket, oldest] != 0 and scores[bucket, oldest] >= admission:
        _admit(ids[bucket, oldest], scores[bucket, oldest], main_ids, main_scores, main_rows, seed)
    ids[bucket, oldest] = word
    scores[bucket, oldest] = 0
    times[bucket, oldest] = now
    return oldest


@njit(nogil=True, cache=True)
def insert(
    features, added, ids, scores, rows, window_ids, window_scores, times, now, seed, limits, free, counts, promoted
):
    """Adds scores (K,) to features (K,) in order; returns the number of promotions.

    Args:
        features: (K,) feature numbers.
        added: (K,) float32.
        ids: (W, S) int32, the main buckets.
        scores: (W, S) float32.
        rows: (W, S) int32, -1 for a slot without a row.
        window_ids: (V, S) int32.
        window_scores: (V, S) float32.
        times: (V, S) int32, the step of the last use.
        now: the step.
        seed: seed of the hash.
        limits: (2,) float32: the threshold, and the score with which the window's evicted features are admitted.
        free: a stack of rows.
        counts: (2,) int64: rows on the stack, demotions so far.
        promoted: (K, 2) int64, filled with the index in `features` and the row of each promotion.
    """
    num_promoted = 0
    for i in range(features.shape[0]):
        word = features[i] + 1
        bucket = bucket_of(word, ids.shape[0], seed)
        slot = _slot_of(ids, bucket, word)
        if slot >= 0:
            scores[bucket, slot] += added[i]
        else:
            near = bucket_of(word, window_ids.shape[0], seed)
            found = _slot_of(window_ids, near, word)
            if found < 0:
                found = _enter(word, window_ids, window_scores, times, seed, now, ids, scores, rows, limits[1])
            window_scores[near, found] += added[i]
            times[near, found] = now
            if window_scores[near, found] <= limits[0]:
                continue
            slot = _admit(word, window_scores[near, found], ids, scores, rows, seed)
            if slot < 0:
                continue
            window_ids[near, found] = 0
            window_scores[near, found] = 0
            times[near, found] = 0
        if rows[bucket, slot] < 0 and scores[bucket, slot] > limits[0] and counts[NUM_FREE] > 0:
            counts[NUM_FREE] -= 1
            rows[bucket, slot] = free[counts[NUM_FREE]]
            promoted[num_promoted, 0] = i
            promoted[num_promoted, 1] = rows[bucket, slot]
            num_promoted += 1
    return num_promoted
