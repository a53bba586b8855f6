"""Reviews of a hot set: every 4096 events, which keys move up or down a tier.

The limits are the scores at the last ranks, with a band around each. Keys that passed a limit since the last review are
candidates; keys that sank are found by a hand that sweeps the buckets. Changes are emitted in order, demotions before
the promotions that take their rows, `budget` at most.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sketch.changes import COLD, HOT, WARM
from sketch.kernels import (
    BIN_BITS,
    DEMOTE_HOT,
    DEMOTE_WARM,
    HALF,
    HAND,
    LAST_ROW,
    LINE_BYTES,
    NUM_BINS,
    NUM_CANDIDATES,
    NUM_FREE,
    NUM_WARM,
    PROMOTE_HOT,
    PROMOTE_WARM,
    RENORMALISE_CODE,
    decode_score,
    encode_score,
    leave,
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
def set_limits(histogram, limits, moments, hot_capacity, warm_capacity, is_hot_full, is_warm_full, standard_errors):
    """Sets the codes between which nothing changes: the score at the tier's last rank, times and over its band.

    While a tier is not full, every key that reaches its last rank may enter. A key that may be hot may be warm, too:
    otherwise a full warm tier (one of capacity 0 is always full) would keep cold keys from free rows.
    """
    hot = decode_score(_code_at_rank(histogram, hot_capacity))
    warm = decode_score(_code_at_rank(histogram, hot_capacity + warm_capacity))
    hot_band, warm_band = _band(hot, moments, standard_errors), _band(warm, moments, standard_errors)
    for limit, units in (
        (PROMOTE_HOT, hot * (hot_band if is_hot_full else 1.0)),
        (DEMOTE_HOT, hot / hot_band),
        (PROMOTE_WARM, warm * (warm_band if is_warm_full else 1.0)),
        (DEMOTE_WARM, warm / warm_band),
    ):
        limits[limit] = min(max(encode_score(units, HALF), 1), RENORMALISE_CODE)
    limits[PROMOTE_WARM] = min(limits[PROMOTE_WARM], limits[PROMOTE_HOT])


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
    warm_capacity, reserve, sweep, budget, out_key, out_tier, out_row, out_score,
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
            tier, code = tiers[hand, slot], np.int64(scores[hand, slot])
            if code == 0:
                continue
            sinks = tier >= HOT and code < limits[DEMOTE_HOT] and counts[NUM_FREE] < reserve
            if sinks or (
                tier == WARM and code < limits[DEMOTE_WARM] and warm_capacity - counts[NUM_WARM] < 2 * reserve
            ):
                leave(tiers, high, free_rows, counts, hand, slot)
                to_warm = sinks and code >= limits[PROMOTE_WARM] and counts[NUM_WARM] < warm_capacity
                if to_warm:
                    tiers[hand, slot] = WARM
                    counts[NUM_WARM] += 1
                out_key[num_out] = _key_at(lines, wide, scores.shape[0], seed, hand, slot)
                out_tier[num_out] = WARM if to_warm else COLD
                out_row[num_out], out_score[num_out] = -1, decode_score(code) / scale
                num_out += 1
            elif tier < HOT and code >= limits[tier]:
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
    first_row, warm_capacity, reserve, sweep, budget, out_key, out_tier, out_row, out_score,
):  # fmt: skip
    """Sweeps the next buckets, then promotes the best candidates; returns the number of changes, at most `budget`."""
    num_out = _sweep(
        lines, wide, scores, seed, scale, tiers, high, limits, counts, free_rows, candidates,
        warm_capacity, reserve, sweep, budget, out_key, out_tier, out_row, out_score,
    )  # fmt: skip
    for index in _best_first(scores, candidates, counts[NUM_CANDIDATES]):
        if num_out >= budget:
            break
        bucket, slot = index >> 3, index & 7
        tier, code = tiers[bucket, slot], np.int64(scores[bucket, slot])
        if tier >= HOT:
            continue
        to_hot = code >= limits[PROMOTE_HOT] and counts[NUM_FREE] > 0
        if not to_hot and (tier == WARM or code < limits[PROMOTE_WARM] or counts[NUM_WARM] >= warm_capacity):
            continue
        leave(tiers, high, free_rows, counts, bucket, slot)
        row = -1
        if to_hot:
            # Go on from the last row: a free one is soon found, and a row rests before it is assigned again.
            counts[LAST_ROW] = take_row(tiers, high, free_rows, counts, bucket, slot, counts[LAST_ROW])
            row = first_row + counts[LAST_ROW]
        else:
            tiers[bucket, slot] = WARM
            counts[NUM_WARM] += 1
        out_key[num_out] = _key_at(lines, wide, scores.shape[0], seed, bucket, slot)
        out_tier[num_out] = HOT if to_hot else WARM
        out_row[num_out], out_score[num_out] = row, decode_score(code) / scale
        num_out += 1
    counts[NUM_CANDIDATES] = 0
    return num_out
