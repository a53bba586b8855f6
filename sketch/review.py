"""Reviews of a hot set: every 4096 events, which keys become hot or cold.

The limits are the score at the last rank, with a band around it. Keys that rose over theirs since the last review are
candidates; keys that sank are found by a hand that sweeps the buckets. Changes are emitted in order, demotions before
the promotions that take their rows, `budget` at most.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from sketch.changes import NO_ROW
from sketch.drift import has_drifted, restart
from sketch.kernels import (
    HALF,
    LINE_BYTES,
    MAX_SCALE,
    RENORMALISE_CODE,
    SCORES,
    SHRINK,
    decode_score,
    encode_score,
    log2_floor,
    num_tag_bytes,
    read_tag,
    rebuild_key,
)
from sketch.simd import lowest_bit
from sketch.tracking import (
    BIN_BITS,
    DEMOTE,
    HAND,
    HELD_HITS,
    HOT_BYTE,
    HOT_HITS,
    NUM_BINS,
    NUM_CANDIDATES,
    NUM_FREE,
    PROMOTE,
    SLOT_BITS,
    SLOT_MASK,
    candidate,
    free_row,
    insert_tracked,
    renormalise,
    take_row,
)
from sketch.vectors import at_least_u16x8, load_u16x8, mask_bits, repeat_u16x8

__all__ = ["Rules", "review_early", "set_limits", "update"]

_MAX_BAND = 1.0


class Rules(NamedTuple):
    """The parameters of a hot set's reviews.

    Attributes:
        capacity: the number of rows.
        first_row: the first row's number in the changes.
        reserve: keys are demoted for their score only while fewer rows are free.
        standard_errors: the width of the band.
        events: from one review to the next.
        sweep: buckets that the hand visits in one review.
        budget: changes of one review.
        recent: the weight of one review in the moments.
        drift_decay: the factor for all scores after a drift; 1 for scores without decay, which ignore drift.
    """

    capacity: int
    first_row: int
    reserve: int
    standard_errors: float
    events: int
    sweep: int
    budget: int
    recent: float
    drift_decay: float


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
def set_limits(state, rules):
    """Sets the codes between which nothing changes: the score at the last rank, times and over its band.

    While rows are free, every key that reaches the last rank may enter.
    """
    last = decode_score(_code_at_rank(state.histogram, rules.capacity))
    band = _band(last, state.moments, rules.standard_errors)
    is_full = state.counts[NUM_FREE] == 0
    for limit, units in ((PROMOTE, last * (band if is_full else 1.0)), (DEMOTE, last / band)):
        state.limits[limit] = min(max(encode_score(units, HALF), 1), RENORMALISE_CODE)


@njit(nogil=True, cache=True)
def _emit(table, seed, scale, bucket, slot, row, out, num_out):
    """Appends a change of the key in a slot."""
    lines, wide, codes = table
    buckets = np.uint64(codes.shape[0])
    line, wide_line = lines.ctypes.data + bucket * LINE_BYTES, wide.ctypes.data + bucket * 8
    tag = read_tag(line, wide_line, num_tag_bytes(buckets), slot)
    out.key[num_out] = rebuild_key(bucket, tag, seed, buckets, log2_floor(buckets))
    out.row[num_out], out.score[num_out] = row, decode_score(np.int64(codes[bucket, slot])) / scale


@njit(nogil=True, cache=True)
def _sweep(table, seed, scale, state, rules, out, num_out):
    """Demotes the keys of the next buckets that sank, lists those that rose; returns the number of changes."""
    lines, _, codes = table
    counts, used = state.counts, (1 << codes.shape[1]) - 1
    promote, demote = repeat_u16x8(state.limits[PROMOTE]), repeat_u16x8(state.limits[DEMOTE])
    most = num_out + (rules.budget + 1) // 2
    hand = counts[HAND]
    for _ in range(min(rules.sweep, codes.shape[0])):
        if num_out >= most:
            break
        scores = load_u16x8(lines.ctypes.data + hand * LINE_BYTES + SCORES)
        hot = np.int64(lines[hand * LINE_BYTES + HOT_BYTE])
        rising = mask_bits(at_least_u16x8(scores, promote)) & ~hot & used
        sinking = ~mask_bits(at_least_u16x8(scores, demote)) & hot
        while sinking != 0 and counts[NUM_FREE] < rules.reserve:
            slot = lowest_bit(sinking)
            _emit(table, seed, scale, hand, slot, NO_ROW, out, num_out)
            free_row(lines, state, hand, slot)
            num_out += 1
            sinking &= sinking - 1
        while rising != 0:
            slot = lowest_bit(rising)
            state.candidates[counts[NUM_CANDIDATES]] = candidate(np.int64(codes[hand, slot]), hand * 8 + slot)
            counts[NUM_CANDIDATES] += 1
            rising &= rising - 1
        hand = hand + 1 if hand + 1 < codes.shape[0] else 0
    counts[HAND] = hand
    return num_out


@njit(nogil=True, cache=True)
def _best_last(candidates, most):
    """The candidates with the best `most` at the end, ascending. Most reviews of a filling set have thousands."""
    if most < candidates.shape[0]:
        candidates = np.partition(candidates, candidates.shape[0] - most)
    candidates[candidates.shape[0] - most :].sort()
    return candidates


@njit(nogil=True, cache=True)
def _promote(table, seed, scale, state, rules, out, num_out, most):
    """Promotes the best candidates until there are `most` changes or no row is free; returns the number of changes."""
    lines, _, _ = table
    counts = state.counts
    remaining = state.candidates[: counts[NUM_CANDIDATES]]
    wanted = min(most - num_out, counts[NUM_FREE])
    while wanted > 0 and remaining.shape[0] > 0:
        num_best = min(2 * wanted, remaining.shape[0])  # some are listed twice
        remaining = _best_last(remaining, num_best)
        for i in range(remaining.shape[0] - 1, remaining.shape[0] - 1 - num_best, -1):
            if wanted == 0 or remaining[i] >> SLOT_BITS < state.limits[PROMOTE]:
                return num_out
            index = SLOT_MASK - (remaining[i] & SLOT_MASK)
            bucket, slot = index >> 3, index & 7
            if (np.int64(lines[bucket * LINE_BYTES + HOT_BYTE]) >> slot) & 1:
                continue
            row = rules.first_row + take_row(lines, state, bucket, slot)
            _emit(table, seed, scale, bucket, slot, row, out, num_out)
            num_out += 1
            wanted -= 1
        remaining = remaining[: remaining.shape[0] - num_best]
    return num_out


@njit(nogil=True, cache=True)
def _decay(codes, scale, state, factor):
    """Multiplies every score by the factor; returns the scale."""
    scale /= factor
    while scale > MAX_SCALE:
        renormalise(codes, state)
        scale *= SHRINK
    return scale


@njit(nogil=True, cache=True)
def _review(table, seed, scale, state, rules, decay, out, num_out):
    """Decays the scores, sweeps the next buckets, promotes the best candidates; returns (scale, number of changes)."""
    counts = state.counts
    if has_drifted(state.drift, counts[HELD_HITS], counts[HOT_HITS]) and rules.drift_decay < 1.0:
        restart(state.drift)
        decay *= rules.drift_decay
    counts[HELD_HITS] = counts[HOT_HITS] = 0
    scale, num_out = _change(table, seed, scale, state, rules, decay, out, num_out)
    for moment in range(2):
        state.moments[moment] *= 1.0 - rules.recent
    return scale, num_out


@njit(nogil=True, cache=True)
def _change(table, seed, scale, state, rules, decay, out, num_out):
    """The part of a review that decays and changes; returns (scale, number of changes)."""
    _, _, codes = table
    counts = state.counts
    if decay < 1.0:
        scale = _decay(codes, scale, state, decay)
    set_limits(state, rules)
    most = num_out + rules.budget
    num_out = _sweep(table, seed, scale, state, rules, out, num_out)
    if counts[NUM_FREE] > 0:
        num_out = _promote(table, seed, scale, state, rules, out, num_out, most)
    counts[NUM_CANDIDATES] = 0
    return scale, num_out


@njit(nogil=True, cache=True)
def review_early(table, seed, scale, state, rules, decay, out):
    """A review of fewer events than one takes, which are too few to judge drift or moments by."""
    return _change(table, seed, scale, state, rules, decay, out, 0)


@njit(nogil=True, cache=True)
def update(table, keys, scores, seed, position, scale, always_admit, state, rules, first_decay, decay, out):
    """Counts the keys and reviews the set whenever it is time; returns (scale, number of changes).

    `first_decay` is the factor for the scores at the first review, `decay` at the others.
    """
    start, stop, num_out = 0, 0, 0
    events = np.uint64(rules.events)
    while start < keys.shape[0]:
        until_review = np.int64(events - position % events)
        stop = min(start + until_review, keys.shape[0])
        scale, num_out = insert_tracked(
            table, keys[start:stop], scores[start:stop], seed, position, scale, always_admit, state, out, num_out
        )
        position += np.uint64(stop - start)
        if stop - start == until_review:
            scale, num_out = _review(table, seed, scale, state, rules, first_decay, out, num_out)
            first_decay = decay
        start = stop
    return scale, num_out
