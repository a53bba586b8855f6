"""Reviews of a hot set: every 4096 events, which keys become hot or cold.

The limits are the score at the last rank, with a band around it. Keys that rose over theirs since the last review are
candidates; keys that sank are found by a hand that sweeps the buckets. Changes are emitted in order, demotions before
the promotions that take their rows, `budget` at most.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sketch.changes import NO_ROW
from sketch.kernels import (
    BIN_BITS,
    DEMOTE,
    HALF,
    HAND,
    LAST_ROW,
    LINE_BYTES,
    NUM_BINS,
    NUM_CANDIDATES,
    NUM_FREE,
    PROMOTE,
    RENORMALISE_CODE,
    decode_score,
    encode_score,
    free_row,
    log2_floor,
    num_tag_bytes,
    read_tag,
    rebuild_key,
    take_row,
)

__all__ = ["review", "set_limits"]

_MAX_BAND = 1.0
_SLOT_BITS = 44  # of a slot's flat index, below its score in a sortable word
_SLOT_MASK = (1 << _SLOT_BITS) - 1


@njit(nogil=True, cache=True)
def _code_at_rank(histogram, rank):
    """The lowest code of the bin that holds the rank-th best slot; 1 if there are fewer."""
    above = 0
    for code_bin in range(NUM_BINS - 1, 0, -1):
        above += histogram[code_bin]
        if above >= rank:
            return code_bin << BIN_BITS
    return 1


@njit(nogil=True, cache=True)
def _band(units, moments, standard_errors):
    """The factor by which a decayed sum of this many units may be off: so many of its standard errors.

    If a key's increments x arrive at random and at a steady rate, the variance of their sum S is S E[x^2] / E[x].
    """
    return 1.0 + min(standard_errors * np.sqrt(moments[1] / (moments[0] * max(units, 1.0))), _MAX_BAND)


@njit(nogil=True, cache=True)
def set_limits(histogram, limits, moments, capacity, is_full, standard_errors):
    """Sets the codes between which nothing changes: the score at the last rank, times and over its band.

    While rows are free, every key that reaches the last rank may enter.
    """
    last = decode_score(_code_at_rank(histogram, capacity))
    band = _band(last, moments, standard_errors)
    for limit, units in ((PROMOTE, last * (band if is_full else 1.0)), (DEMOTE, last / band)):
        limits[limit] = min(max(encode_score(units, HALF), 1), RENORMALISE_CODE)


@njit(nogil=True, cache=True)
def _key_at(lines, wide, num_buckets, seed, bucket, slot):
    """The key in a slot."""
    buckets = np.uint64(num_buckets)
    line, wide_line = lines.ctypes.data + bucket * LINE_BYTES, wide.ctypes.data + bucket * 8
    tag = read_tag(line, wide_line, num_tag_bytes(buckets), slot)
    return rebuild_key(bucket, tag, seed, buckets, log2_floor(buckets))


@njit(nogil=True, cache=True)
def _sweep(
    lines, wide, scores, seed, scale, tiers, high, limits, counts, free_rows, candidates,
    reserve, sweep, budget, out_key, out_row, out_score,
):  # fmt: skip
    """Demotes the keys of the next buckets that sank, lists those that rose; returns the number of changes.

    Keys are demoted only while fewer than `reserve` rows are free (a full hot set is a useful one).
    """
    num_out = 0
    hand = counts[HAND]
    for _ in range(min(sweep, scores.shape[0])):
        if 2 * num_out >= budget:
            break
        for slot in range(scores.shape[1]):
            is_hot, code = tiers[hand, slot] != 0, np.int64(scores[hand, slot])
            if is_hot and code < limits[DEMOTE] and counts[NUM_FREE] < reserve:
                free_row(tiers, high, free_rows, counts, hand, slot)
                out_key[num_out] = _key_at(lines, wide, scores.shape[0], seed, hand, slot)
                out_row[num_out], out_score[num_out] = NO_ROW, decode_score(code) / scale
                num_out += 1
            elif not is_hot and code >= limits[PROMOTE]:
                candidates[counts[NUM_CANDIDATES]] = hand * 8 + slot
                counts[NUM_CANDIDATES] += 1
        hand = hand + 1 if hand + 1 < scores.shape[0] else 0
    counts[HAND] = hand
    return num_out


@njit(nogil=True, cache=True)
def _best_first(scores, candidates, num_candidates):
    """The candidates by score, best first, ties in the order of their slots."""
    order = np.empty(num_candidates, np.int64)
    for i in range(num_candidates):
        code = np.int64(scores[candidates[i] >> 3, candidates[i] & 7])
        order[i] = (code << _SLOT_BITS) | (_SLOT_MASK - candidates[i])
    order.sort()
    for i in range(num_candidates):
        candidates[i] = _SLOT_MASK - (order[num_candidates - 1 - i] & _SLOT_MASK)
    return candidates[:num_candidates]


@njit(nogil=True, cache=True)
def review(
    lines, wide, scores, seed, scale, tiers, high, limits, counts, free_rows, candidates,
    first_row, reserve, sweep, budget, out_key, out_row, out_score,
):  # fmt: skip
    """Sweeps the next buckets, then promotes the best candidates; returns the number of changes, at most `budget`."""
    num_out = _sweep(
        lines, wide, scores, seed, scale, tiers, high, limits, counts, free_rows, candidates,
        reserve, sweep, budget, out_key, out_row, out_score,
    )  # fmt: skip
    for index in _best_first(scores, candidates, counts[NUM_CANDIDATES]):
        bucket, slot = index >> 3, index & 7
        code = np.int64(scores[bucket, slot])
        if num_out >= budget or counts[NUM_FREE] == 0 or code < limits[PROMOTE]:
            break
        if tiers[bucket, slot] != 0:  # listed twice
            continue
        # Go on from the last row: a free one is soon found, and a row rests before it is assigned again.
        counts[LAST_ROW] = take_row(tiers, high, free_rows, counts, bucket, slot, counts[LAST_ROW])
        out_key[num_out] = _key_at(lines, wide, scores.shape[0], seed, bucket, slot)
        out_row[num_out], out_score[num_out] = first_row + counts[LAST_ROW], decode_score(code) / scale
        num_out += 1
    counts[NUM_CANDIDATES] = 0
    return num_out
