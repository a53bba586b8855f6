"""Which keys get the unique rows: two rules with one signature, run at every review of a hot set.

- `review_ranks`: the top of the whole sketch. Limits are the scores at the last ranks; keys that passed one since the
  last review are candidates, what sank is met by a hand that sweeps the buckets.
- `review_buckets`: every bucket owns a share of the rows, for the best keys in it. No order over the whole sketch, no
  limits.

Both emit changes in order, demotions before the promotions that take their rows, `budget` at most.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sketch.kernels import (
    BIN_BITS,
    COLD,
    DEMOTE_HOT,
    DEMOTE_WARM,
    HALF,
    HAND,
    HOT,
    LAST_ROW,
    LINE_BYTES,
    NUM_BINS,
    NUM_CANDIDATES,
    NUM_FREE,
    NUM_WARM,
    PROMOTE_HOT,
    PROMOTE_WARM,
    RENORMALISE_CODE,
    WARM,
    decode_score,
    encode_score,
    leave,
    log2_floor,
    num_tag_bytes,
    read_tag,
    rebuild_key,
    take_row,
)

__all__ = ["review_buckets", "review_ranks", "set_limits"]

_MOST_BAND = 1.0


@njit(nogil=True, cache=True)
def _code_at_rank(histogram, rank):
    """The lowest code of the bin in which the rank-th best slot is; 1 if there are fewer."""
    above = 0
    for place in range(NUM_BINS - 1, 0, -1):
        above += histogram[place]
        if above >= rank:
            return place << BIN_BITS
    return 1


@njit(nogil=True, cache=True)
def _band(units, moments, standard_errors):
    """The factor by which a decayed sum of this many units may be off, as so many standard errors of it.

    If a key's increments x come by chance, at a steady rate, the variance of their sum S is S E[x^2] / E[x].
    """
    return 1.0 + min(standard_errors * np.sqrt(moments[1] / (moments[0] * max(units, 1.0))), _MOST_BAND)


@njit(nogil=True, cache=True)
def set_limits(histogram, limits, moments, hot_capacity, warm_capacity, is_hot_full, is_warm_full, standard_errors):
    """The codes between which nothing changes: the score at the tier's last rank, times its band and over it.

    While a tier is not full whatever reaches its last rank may enter; and what may be hot may be warm, or a full warm
    tier (one of no places is always full) would keep cold keys from free rows.
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
def review_ranks(
    lines, wide, scores, seed, scale, tiers, high, limits, counts, free_rows, candidates,
    first_row, warm_capacity, reserve, sweep, budget, out_key, out_tier, out_row, out_score,
):  # fmt: skip
    """Moves tiers: sweeps the next buckets for what sank, then promotes the best candidates; at most `budget` changes.

    Demotions come first, and only while fewer than `reserve` rows are free (a full hot set is a useful one).
    Returns the number of changes.
    """
    num_buckets, slots = np.uint64(scores.shape[0]), scores.shape[1]
    tag_shift, tag_bytes = log2_floor(num_buckets), num_tag_bytes(num_buckets)
    base, wide_base = lines.ctypes.data, wide.ctypes.data
    num_out = 0
    hand = counts[HAND]
    for _ in range(min(sweep, scores.shape[0])):
        if 2 * num_out >= budget:
            break
        for slot in range(slots):
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
                tag = read_tag(base + hand * LINE_BYTES, wide_base + hand * 8, tag_bytes, slot)
                out_key[num_out] = rebuild_key(hand, tag, seed, num_buckets, tag_shift)
                out_tier[num_out] = WARM if to_warm else COLD
                out_row[num_out], out_score[num_out] = -1, decode_score(code) / scale
                num_out += 1
            elif tier < HOT and code >= limits[tier]:
                candidates[counts[NUM_CANDIDATES]] = hand * 8 + slot
                counts[NUM_CANDIDATES] += 1
        hand = hand + 1 if hand + 1 < scores.shape[0] else 0
    counts[HAND] = hand

    order = np.empty(counts[NUM_CANDIDATES], np.int64)
    for i in range(order.shape[0]):
        code = np.int64(scores[candidates[i] >> 3, candidates[i] & 7])
        order[i] = (code << 44) | ((1 << 44) - 1 - candidates[i])
    order.sort()
    for i in range(order.shape[0] - 1, -1, -1):
        if num_out >= budget:
            break
        place, code = (1 << 44) - 1 - (order[i] & ((1 << 44) - 1)), order[i] >> 44
        bucket, slot = place >> 3, place & 7
        tier = tiers[bucket, slot]
        if tier >= HOT:
            continue
        to_hot = code >= limits[PROMOTE_HOT] and counts[NUM_FREE] > 0
        if not to_hot and (tier == WARM or code < limits[PROMOTE_WARM] or counts[NUM_WARM] >= warm_capacity):
            continue
        leave(tiers, high, free_rows, counts, bucket, slot)
        row = -1
        if to_hot:
            # Round and round, so that finding a free one costs little and a row rests before it is given away again.
            counts[LAST_ROW] = take_row(tiers, high, free_rows, counts, bucket, slot, counts[LAST_ROW])
            row = first_row + counts[LAST_ROW]
        else:
            tiers[bucket, slot] = WARM
            counts[NUM_WARM] += 1
        tag = read_tag(base + bucket * LINE_BYTES, wide_base + bucket * 8, tag_bytes, slot)
        out_key[num_out] = rebuild_key(bucket, tag, seed, num_buckets, tag_shift)
        out_tier[num_out] = HOT if to_hot else WARM
        out_row[num_out], out_score[num_out] = row, decode_score(code) / scale
        num_out += 1
    counts[NUM_CANDIDATES] = 0
    return num_out


@njit(nogil=True, cache=True)
def _best_slots(units, standing, wanted, chosen):
    """Marks up to `wanted` of the unmarked slots with the largest standing, the first of equals; empty ones never."""
    for _ in range(wanted):
        best = -1
        for slot in range(units.shape[0]):
            if not chosen[slot] and units[slot] > 0.0 and (best < 0 or standing[slot] > standing[best]):
                best = slot
        if best < 0:
            return
        chosen[best] = True


@njit(nogil=True, cache=True)
def review_buckets(
    lines, wide, scores, seed, scale, tiers, high, counts, free_rows, moments,
    capacity, first_row, warm_capacity, standard_errors, sweep, budget, out_key, out_tier, out_row, out_score,
):  # fmt: skip
    """Gives each of the next buckets' rows and warm places to its best keys; at most `budget` changes.

    Bucket b of W owns the rows from `capacity * b // W` on up to those of the next, and as large a share of the warm
    places. Who has a place keeps it until another's score passes its own by the band. Returns the number of changes.
    """
    num_buckets, slots = np.uint64(scores.shape[0]), scores.shape[1]
    tag_shift, tag_bytes = log2_floor(num_buckets), num_tag_bytes(num_buckets)
    base, wide_base = lines.ctypes.data, wide.ctypes.data
    buckets = scores.shape[0]
    units, standing = np.empty(slots), np.empty(slots)
    is_hot, is_kept = np.empty(slots, np.bool_), np.empty(slots, np.bool_)
    num_out = 0
    for _ in range(min(sweep, buckets)):
        if num_out + slots > budget:
            break
        bucket = counts[HAND]
        counts[HAND] = bucket + 1 if bucket + 1 < buckets else 0
        first = capacity * bucket // buckets
        num_rows = min(capacity * (bucket + 1) // buckets - first, slots)
        num_warm = warm_capacity * (bucket + 1) // buckets - warm_capacity * bucket // buckets
        for slot in range(slots):
            units[slot] = decode_score(np.int64(scores[bucket, slot]))
            band = _band(units[slot], moments, standard_errors)
            standing[slot] = units[slot] * (band if tiers[bucket, slot] >= HOT else 1.0)
        is_hot[:] = False
        _best_slots(units, standing, num_rows, is_hot)
        for slot in range(slots):
            if tiers[bucket, slot] == WARM:
                standing[slot] = units[slot] * _band(units[slot], moments, standard_errors)
        is_kept[:] = is_hot
        _best_slots(units, standing, num_warm, is_kept)
        for turn in range(2):  # demotions before promotions
            for slot in range(slots):
                tier = min(np.int64(tiers[bucket, slot]), HOT)
                wanted = HOT if is_hot[slot] else (WARM if is_kept[slot] else COLD)
                if tier == wanted or (wanted > tier) != (turn == 1):
                    continue
                leave(tiers, high, free_rows, counts, bucket, slot)
                tag = read_tag(base + bucket * LINE_BYTES, wide_base + bucket * 8, tag_bytes, slot)
                out_key[num_out] = rebuild_key(bucket, tag, seed, num_buckets, tag_shift)
                out_tier[num_out], out_row[num_out] = wanted, -1
                out_score[num_out] = units[slot] / scale
                if wanted == WARM:
                    tiers[bucket, slot] = WARM
                    counts[NUM_WARM] += 1
                elif wanted == HOT:
                    out_row[num_out] = first_row + take_row(tiers, high, free_rows, counts, bucket, slot, first)
                num_out += 1
    counts[NUM_CANDIDATES] = 0  # a renormalisation lowers the limits, and then there are some
    return num_out
