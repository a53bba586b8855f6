"""The loops of HotSketch and HotSet. Arrays in, changed in place; nothing is allocated per key.

One bucket is one cache line of 64 bytes, seven slots:

    byte   0         28        42        56       63
           | tag low | tag mid | score   | tag hi |-|
           | 7 x u32 | 7 x u16 | 7 x u16 | 7 x u8 |

**Tag.** The key is mixed invertibly; multiplying the mixed word by the number of buckets W gives the bucket (high
64 bits) and leaves a remainder (low 64 bits) of which all but the lowest log2(W) bits tell two keys of one bucket
apart. From 256 buckets up those are at most 56 bits, so nothing of the key is lost and `rebuild_key` has it back.
Smaller sketches keep the tag's top byte in an array of their own, `wide`.

**Score.** 5 bits exponent, 11 bits mantissa, rounded at random in proportion, so that a sum keeps its expectation
however small its increments are. Codes compare as the scores do. Code 0 is an empty slot.

        code <  2048:  code units                       2^11 units are a score of 1 in a fresh sketch
        code >= 2048:  (2048 + code % 2048) << (code // 2048 - 1) units, to 2^42

**Randomness** is a hash of seed, key and position in the stream: no state but the position, so any split of a stream
into batches gives the same sketch.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sketch.hashing import mix64, unmix64
from sketch.simd import bits_of, float_of, lowest_bit, match_u32x8, min_u16x8, prefetch

LINE_BYTES = 64
MAX_SLOTS = 7
MIDS, SCORES, HIGHS = 14, 21, 56  # where a line's parts begin, counted in their own items
SCORE_BYTE = 2 * SCORES
MANTISSA_BITS = 11
LINEAR = 1 << MANTISSA_BITS  # codes below are plain units
TOP_CODE = (1 << 16) - 1
# An increment adds at most 2^20 scores of 2^19 units, below 2^40: from here there is always room for one more.
RENORMALISE_CODE = 30 << MANTISSA_BITS
RENORMALISE_OCTAVES = 8
BLOCK = 32  # keys hashed and prefetched ahead of their insertion
BIN_BITS = 5  # codes of one histogram bin: 1.6 % wide
NUM_BINS = 1 << (16 - BIN_BITS)

COLD_SLOT, WARM_SLOT = -1, -2  # what `tiers` says of a slot that owns no row

_DROPPED_BITS = 52 - MANTISSA_BITS
_DROPPED = (1 << _DROPPED_BITS) - 1
_BIAS = (1023 + MANTISSA_BITS - 1) << MANTISSA_BITS
_U11, _U16, _U32, _U48, _U53 = (np.uint64(bits) for bits in (11, 16, 32, 48, 53))
_LOW16, _LOW32 = np.uint64(0xFFFF), np.uint64(0xFFFFFFFF)
_LOW8 = np.uint64(0xFF)
_U56 = np.uint64(56)
_POSITION = np.uint64(0x9E3779B97F4A7C15)
_COIN = 1.0 / (1 << 22)
_COIN_SHIFT = np.uint64(42)


@njit(nogil=True, cache=True, inline="always")
def decode_score(code):
    """The units that a code stands for, float64."""
    if code < LINEAR:
        return np.float64(code)
    return float_of((np.int64(code) + _BIAS) << _DROPPED_BITS)


@njit(nogil=True, cache=True, inline="always")
def encode_score(units, random):
    """The code of a number of units, rounded up with the probability of what would be dropped; 1 at least."""
    if units < LINEAR:
        code = np.int64(units + np.float64(random & _DROPPED) * (1.0 / (1 << _DROPPED_BITS)))
        return max(code, 1)
    code = ((bits_of(units) + (random & _DROPPED)) >> _DROPPED_BITS) - _BIAS
    return min(code, TOP_CODE)


@njit(nogil=True, cache=True, inline="always")
def log2_floor(number):
    """The place of the highest set bit of a uint64 that is not 0."""
    place = np.uint64(0)
    while (number >> (place + np.uint64(1))) != np.uint64(0):
        place += np.uint64(1)
    return place


@njit(nogil=True, cache=True, inline="always")
def locate(key, seed, num_buckets, tag_shift):
    """Bucket and tag of a key."""
    mixed = mix64(key ^ seed)
    low = (mixed & _LOW32) * num_buckets
    high = (mixed >> _U32) * num_buckets + (low >> _U32)
    return np.int64(high >> _U32), ((high << _U32) | (low & _LOW32)) >> tag_shift


@njit(nogil=True, cache=True, inline="always")
def rebuild_key(bucket, tag, seed, num_buckets, tag_shift):
    """The key at this bucket with this tag: the one dividend in reach, by long division in base 2^32."""
    remainder = tag << tag_shift
    first = (np.uint64(bucket) << _U32) | (remainder >> _U32)
    second = ((first % num_buckets) << _U32) | (remainder & _LOW32)
    mixed = ((first // num_buckets) << _U32) | (second // num_buckets)
    if second % num_buckets != np.uint64(0):
        mixed += np.uint64(1)
    return unmix64(mixed) ^ seed


@njit(nogil=True, cache=True, inline="always")
def read_tag(lines32, lines16, lines8, wide, bucket, slot):
    """The tag in a slot."""
    tag = np.uint64(lines32[bucket, slot])
    tag |= np.uint64(lines16[bucket, MIDS + slot]) << _U32
    tag |= np.uint64(lines8[bucket, HIGHS + slot]) << _U48
    if wide.shape[0]:
        tag |= np.uint64(wide[bucket, slot]) << _U56
    return tag


@njit(nogil=True, cache=True, inline="always")
def _write_tag(lines32, lines16, lines8, wide, bucket, slot, tag):
    lines32[bucket, slot] = np.uint32(tag & _LOW32)
    lines16[bucket, MIDS + slot] = np.uint16((tag >> _U32) & _LOW16)
    lines8[bucket, HIGHS + slot] = np.uint8((tag >> _U48) & _LOW8)
    if wide.shape[0]:
        wide[bucket, slot] = np.uint8(tag >> _U56)


@njit(nogil=True, cache=True, inline="always")
def _find(base, lines32, lines16, lines8, wide, bucket, tag, used):
    """The slot that holds the tag, or -1. An empty slot may match tag 0: adding to it is inserting there."""
    matches = match_u32x8(base + bucket * LINE_BYTES, np.uint32(tag & _LOW32)) & used
    while matches:
        slot = lowest_bit(matches)
        if read_tag(lines32, lines16, lines8, wide, bucket, slot) == tag:
            return slot
        matches &= matches - 1
    return -1


@njit(nogil=True, cache=True)
def divide_scores(lines16, slots, octaves):
    """Divides every score by 2^octaves; exact for codes that stay at 2048 or above, never empties a slot."""
    drop = octaves << MANTISSA_BITS
    for bucket in range(lines16.shape[0]):
        for slot in range(slots):
            code = np.int64(lines16[bucket, SCORES + slot])
            if code >= LINEAR + drop:
                lines16[bucket, SCORES + slot] = np.uint16(code - drop)
            elif code > 0:
                units = decode_score(code) / (1 << octaves)
                lines16[bucket, SCORES + slot] = np.uint16(encode_score(units, np.int64(0)))


@njit(nogil=True, cache=True, inline="always")
def _place(base, lines32, lines16, lines8, wide, bucket, tag, units, random, used, always_admit):
    """Counts one key in its bucket: (slot, old code, new code, the tag that had to go or was there already).

    A slot of -1 says that the newcomer was turned away; an old code of 0 that the slot was empty.
    """
    slot = _find(base, lines32, lines16, lines8, wide, bucket, tag, used)
    rounding = np.int64(random)
    if slot >= 0:
        old = np.int64(lines16[bucket, SCORES + slot])
        new = encode_score(decode_score(old) + units, rounding)
        lines16[bucket, SCORES + slot] = np.uint16(new)
        return slot, old, new, tag
    packed = min_u16x8(base + bucket * LINE_BYTES + SCORE_BYTE, ~used)
    slot, old = packed & 7, packed >> 3
    least = decode_score(old)
    if old and not always_admit and np.float64(random >> _COIN_SHIFT) * _COIN * (least + units) >= units:
        return -1, old, old, tag
    new = encode_score(least + units, rounding)
    lines16[bucket, SCORES + slot] = np.uint16(new)
    gone = read_tag(lines32, lines16, lines8, wide, bucket, slot)
    _write_tag(lines32, lines16, lines8, wide, bucket, slot, tag)
    return slot, old, new, gone


@njit(nogil=True, cache=True)
def insert(lines32, lines16, lines8, wide, keys, scores, seed, position, scale, slots, always_admit):
    """Counts the keys in order; returns the scale, which shrinks whenever a score came near the top of the codes.

    `scale` is the number of units of a score of 1, `position` the number of keys counted before.
    """
    num_buckets = np.uint64(lines32.shape[0])
    tag_shift = log2_floor(num_buckets)
    base = lines32.ctypes.data
    used = np.int64((1 << slots) - 1)
    buckets, tags = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.uint64)
    for start in range(0, keys.shape[0], BLOCK):
        stop = min(start + BLOCK, keys.shape[0])
        for i in range(start, stop):
            bucket, tag = locate(keys[i], seed, num_buckets, tag_shift)
            prefetch(base + bucket * LINE_BYTES)
            buckets[i - start], tags[i - start] = bucket, tag
        for i in range(start, stop):
            bucket, tag = buckets[i - start], tags[i - start]
            random = mix64(tag ^ (position + np.uint64(i)) * _POSITION)
            units = np.float64(scores[i]) * scale
            _, _, new, _ = _place(base, lines32, lines16, lines8, wide, bucket, tag, units, random, used, always_admit)
            if new >= RENORMALISE_CODE:
                divide_scores(lines16, slots, RENORMALISE_OCTAVES)
                scale /= 1 << RENORMALISE_OCTAVES
    return scale


@njit(nogil=True, cache=True)
def query(lines32, lines16, lines8, wide, keys, seed, slots, codes):
    """The score code of each key, 0 where the sketch does not hold it."""
    num_buckets = np.uint64(lines32.shape[0])
    tag_shift = log2_floor(num_buckets)
    base = lines32.ctypes.data
    used = np.int64((1 << slots) - 1)
    buckets, tags = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.uint64)
    for start in range(0, keys.shape[0], BLOCK):
        stop = min(start + BLOCK, keys.shape[0])
        for i in range(start, stop):
            bucket, tag = locate(keys[i], seed, num_buckets, tag_shift)
            prefetch(base + bucket * LINE_BYTES)
            buckets[i - start], tags[i - start] = bucket, tag
        for i in range(start, stop):
            slot = _find(base, lines32, lines16, lines8, wide, buckets[i - start], tags[i - start], used)
            codes[i] = 0 if slot < 0 else lines16[buckets[i - start], SCORES + slot]


@njit(nogil=True, cache=True)
def rebuild_keys(lines32, lines16, lines8, wide, places, seed, keys):
    """The keys in the given places (bucket * 8 + slot)."""
    num_buckets = np.uint64(lines32.shape[0])
    tag_shift = log2_floor(num_buckets)
    for i in range(places.shape[0]):
        bucket, slot = places[i] >> 3, places[i] & 7
        tag = read_tag(lines32, lines16, lines8, wide, bucket, slot)
        keys[i] = rebuild_key(bucket, tag, seed, num_buckets, tag_shift)


# ---- the hot set ---------------------------------------------------------------------------------------------------
#
# `tiers` (W, 7) int32 says of every slot: COLD_SLOT, WARM_SLOT, or the unique row that its key owns.
# `histogram` (NUM_BINS,) counts slots by score code, so the score at any rank is a short walk from the top.
# `limits` holds what the last walk found: codes from which a key is promoted and below which it is demoted.
# `counts` holds the small integers of the state. Changes go to `out_*`, in order.

PROMOTE_HOT, DEMOTE_HOT, PROMOTE_WARM, DEMOTE_WARM = range(4)  # places in `limits`
NUM_FREE, NUM_WARM, NUM_CANDIDATES, HAND = range(4)  # places in `counts`
COLD, WARM, HOT = range(3)


@njit(nogil=True, cache=True)
def count_scores(lines16, slots, histogram):
    """Fills the histogram afresh."""
    histogram[:] = 0
    for bucket in range(lines16.shape[0]):
        for slot in range(slots):
            histogram[np.int64(lines16[bucket, SCORES + slot]) >> BIN_BITS] += 1


@njit(nogil=True, cache=True, inline="always")
def _code_at_rank(histogram, rank):
    """The lowest code of the bin in which the rank-th best slot is; 1 if there are fewer."""
    above = 0
    for place in range(NUM_BINS - 1, 0, -1):
        above += histogram[place]
        if above >= rank:
            return place << BIN_BITS
    return 1


@njit(nogil=True, cache=True)
def set_limits(histogram, limits, hot_capacity, warm_capacity, hot_up, warm_up, hot_down, warm_down):
    """The codes between which nothing changes: the score at the tier's last rank, times `up` and over `down`."""
    nothing = np.int64(0)
    hot = _code_at_rank(histogram, hot_capacity)
    warm = _code_at_rank(histogram, hot_capacity + warm_capacity)
    limits[PROMOTE_HOT] = encode_score(decode_score(hot) * hot_up, nothing)
    limits[DEMOTE_HOT] = encode_score(decode_score(hot) / hot_down, nothing)
    limits[PROMOTE_WARM] = encode_score(decode_score(warm) * warm_up, nothing)
    limits[DEMOTE_WARM] = encode_score(decode_score(warm) / warm_down, nothing)


@njit(nogil=True, cache=True, inline="always")
def _leave(tiers, free_rows, counts, bucket, slot):
    """Takes the slot's tier away."""
    row = tiers[bucket, slot]
    if row >= 0:
        free_rows[counts[NUM_FREE]] = row
        counts[NUM_FREE] += 1
    elif row == WARM_SLOT:
        counts[NUM_WARM] -= 1
    tiers[bucket, slot] = COLD_SLOT


@njit(nogil=True, cache=True)
def insert_tracked(
    lines32, lines16, lines8, wide, keys, scores, seed, position, scale, slots, always_admit,
    tiers, histogram, limits, counts, free_rows, candidates,
    out_key, out_tier, out_row, out_score,
):  # fmt: skip
    """`insert`, and what it does to the tiers; returns (scale, number of changes).

    A tracked key that loses its slot is cold from here on. A key whose score passes a limit becomes a candidate, for
    the next review to decide.
    """
    num_buckets = np.uint64(lines32.shape[0])
    tag_shift = log2_floor(num_buckets)
    base = lines32.ctypes.data
    used = np.int64((1 << slots) - 1)
    num_out = 0
    buckets, tags = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.uint64)
    for start in range(0, keys.shape[0], BLOCK):
        stop = min(start + BLOCK, keys.shape[0])
        for i in range(start, stop):
            bucket, tag = locate(keys[i], seed, num_buckets, tag_shift)
            prefetch(base + bucket * LINE_BYTES)
            buckets[i - start], tags[i - start] = bucket, tag
        for i in range(start, stop):
            bucket, tag = buckets[i - start], tags[i - start]
            random = mix64(tag ^ (position + np.uint64(i)) * _POSITION)
            units = np.float64(scores[i]) * scale
            slot, old, new, gone = _place(
                base, lines32, lines16, lines8, wide, bucket, tag, units, random, used, always_admit
            )
            if slot < 0:
                continue
            if old > 0:
                histogram[old >> BIN_BITS] -= 1
            histogram[new >> BIN_BITS] += 1
            if old > 0 and gone != tag and tiers[bucket, slot] != COLD_SLOT:
                out_key[num_out] = rebuild_key(bucket, gone, seed, num_buckets, tag_shift)
                out_tier[num_out], out_row[num_out], out_score[num_out] = COLD, -1, decode_score(old) / scale
                num_out += 1
                _leave(tiers, free_rows, counts, bucket, slot)
            tier = tiers[bucket, slot]
            if (tier == WARM_SLOT and new >= limits[PROMOTE_HOT]) or (
                tier == COLD_SLOT and new >= limits[PROMOTE_WARM]
            ):
                candidates[counts[NUM_CANDIDATES]] = bucket * 8 + slot
                counts[NUM_CANDIDATES] += 1
            if new >= RENORMALISE_CODE:
                divide_scores(lines16, slots, RENORMALISE_OCTAVES)
                scale /= 1 << RENORMALISE_OCTAVES
                count_scores(lines16, slots, histogram)
                for limit in range(limits.shape[0]):
                    limits[limit] = encode_score(decode_score(limits[limit]) / (1 << RENORMALISE_OCTAVES), np.int64(0))
    return scale, num_out


@njit(nogil=True, cache=True)
def review(
    lines32, lines16, lines8, wide, seed, scale, slots, tiers, limits, counts, free_rows, candidates,
    warm_capacity, reserve, sweep, budget, out_key, out_tier, out_row, out_score,
):  # fmt: skip
    """Moves tiers: sweeps the next buckets for what sank, then promotes the best candidates; at most `budget` changes.

    Demotions come first, and only while fewer than `reserve` rows are free (a full hot set is a useful one).
    Returns the number of changes.
    """
    num_buckets = np.uint64(lines32.shape[0])
    tag_shift = log2_floor(num_buckets)
    num_out = 0
    hand = counts[HAND]
    for _ in range(min(sweep, lines32.shape[0])):
        if 2 * num_out >= budget:
            break
        for slot in range(slots):
            tier, code = tiers[hand, slot], np.int64(lines16[hand, SCORES + slot])
            if code == 0:
                continue
            sinks = tier >= 0 and code < limits[DEMOTE_HOT] and counts[NUM_FREE] < reserve
            if sinks or (
                tier == WARM_SLOT and code < limits[DEMOTE_WARM] and warm_capacity - counts[NUM_WARM] < 2 * reserve
            ):
                _leave(tiers, free_rows, counts, hand, slot)
                to_warm = sinks and code >= limits[PROMOTE_WARM] and counts[NUM_WARM] < warm_capacity
                if to_warm:
                    tiers[hand, slot] = WARM_SLOT
                    counts[NUM_WARM] += 1
                tag = read_tag(lines32, lines16, lines8, wide, hand, slot)
                out_key[num_out] = rebuild_key(hand, tag, seed, num_buckets, tag_shift)
                out_tier[num_out] = WARM if to_warm else COLD
                out_row[num_out], out_score[num_out] = -1, decode_score(code) / scale
                num_out += 1
            elif (tier == WARM_SLOT and code >= limits[PROMOTE_HOT]) or (
                tier == COLD_SLOT and code >= limits[PROMOTE_WARM]
            ):
                candidates[counts[NUM_CANDIDATES]] = hand * 8 + slot
                counts[NUM_CANDIDATES] += 1
        hand = hand + 1 if hand + 1 < lines32.shape[0] else 0
    counts[HAND] = hand

    order = np.empty(counts[NUM_CANDIDATES], np.int64)
    for i in range(order.shape[0]):
        code = np.int64(lines16[candidates[i] >> 3, SCORES + (candidates[i] & 7)])
        order[i] = (code << 44) | ((1 << 44) - 1 - candidates[i])
    order.sort()
    for i in range(order.shape[0] - 1, -1, -1):
        if num_out >= budget:
            break
        place, code = (1 << 44) - 1 - (order[i] & ((1 << 44) - 1)), order[i] >> 44
        bucket, slot = place >> 3, place & 7
        tier = tiers[bucket, slot]
        if tier >= 0:
            continue
        to_hot = code >= limits[PROMOTE_HOT] and counts[NUM_FREE] > 0
        if not to_hot and (tier == WARM_SLOT or code < limits[PROMOTE_WARM] or counts[NUM_WARM] >= warm_capacity):
            continue
        _leave(tiers, free_rows, counts, bucket, slot)
        row = -1
        if to_hot:
            counts[NUM_FREE] -= 1
            row = free_rows[counts[NUM_FREE]]
            tiers[bucket, slot] = row
        else:
            tiers[bucket, slot] = WARM_SLOT
            counts[NUM_WARM] += 1
        tag = read_tag(lines32, lines16, lines8, wide, bucket, slot)
        out_key[num_out] = rebuild_key(bucket, tag, seed, num_buckets, tag_shift)
        out_tier[num_out] = HOT if to_hot else WARM
        out_row[num_out], out_score[num_out] = row, decode_score(code) / scale
        num_out += 1
    counts[NUM_CANDIDATES] = 0
    return num_out
