"""The loops of HotSketch and HotSet. Arrays in, changed in place; nothing is allocated per key.

One bucket is one cache line of 64 bytes, seven slots:

    byte   0         28        32        46        48        62       63
           | tag low | tag high | tag mid | tag high | score   | tag high |-|
           | 7 x u32 | of 0..3  | 7 x u16 | of 4, 5  | 7 x u16 | of 6     | |

so low, mid and score are each one aligned vector, read once and written once.

**Tag.** The key is mixed invertibly; multiplying the high half of the mixed word by the number of buckets W gives the
bucket (high 32 bits) and leaves a remainder (low 32 bits) of which all but the lowest log2(W) bits tell two high halves
of one bucket apart; with the low half of the mixed word they are the tag. From 256 buckets up that is at most 56 bits,
so nothing of the key is lost and `rebuild_key` has it back; from 2^16 up it is at most 48, and the high bytes are not
looked at. Smaller sketches keep a top byte in an array of their own, `wide`.

**Score.** 5 bits exponent e, 11 bits mantissa m: the code stands for 2^e (1 + m / 2048) - 1 units, so codes compare as
scores do, below one unit they are evenly spaced, and code 0 is an empty slot. A sum is rounded at random, up in
proportion to what would be dropped, so that it keeps its expectation however small its increments are: the code
changes by `floor(x + u)`, u uniform; in float64 this is adding random bits below the mantissa and cutting them off.
A newcomer whose code would be 0 leaves its slot empty.

**Admission.** A newcomer with an increment of x units, whose bucket is full and has the smallest score m (the first of
equals), takes that slot if `m + x < x / u` (always under `replace_min`), and then stands at m + x.

**Randomness.** `r = (tag ^ position * 0x9E3779B97F4A7C15) * 0xD1342543DE82EF95`, `r ^= r >> 32`: its high 52 bits are
the u of the admission, its low 32 bits the first 32 of the 41 that round (the tag is mixed already, and the high half
of r, which decides, is what one multiplication mixes well). No state but the position in the stream, so any split of
the stream into batches gives the same sketch.

**Speed.** No jump depends on the data but the rare ones: a hit, a newcomer and one turned away run the same
instructions and differ in the mask of the lanes to write. Keys are hashed a block ahead, their lines asked for while
the block before is counted. Hashing is vectors of four keys, bound by the latency of 64-bit multiplications: each loop
of `_prepare_some` has one chain of two at most, and a whole block has a number of rounds that the compiler knows.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sketch.hashing import mix64, unmix64
from sketch.simd import (
    bits_of,
    float_of,
    load_u16,
    load_u32,
    load_u64,
    lowest_bit,
    match_bytes,
    match_u16x8,
    match_u32x8,
    min_u16x8,
    prefetch,
    put_bytes,
    put_last_u16x8,
    put_last_u32x8,
    put_u16x8,
    put_u32x8,
    select,
    store_u64,
)

LINE_BYTES = 64
MAX_SLOTS = 7
HIGH_A, MIDS, HIGH_B, SCORES, HIGH_C = 28, 32, 46, 48, 62  # where a line's parts begin, in bytes
FIRST_SCORE = SCORES // 2
TIER_LANES = 8
MANTISSA_BITS = 11
# An increment is at most 2^20 scores of 2^11 units: from here there is always room for one more below 2^32.
RENORMALISE_CODE = 30 << MANTISSA_BITS
RENORMALISE_OCTAVES = 8
BLOCK = 64  # keys hashed and prefetched ahead of their insertion
BIN_BITS = 5  # codes of one histogram bin: 1.6 % wide
NUM_BINS = 1 << (16 - BIN_BITS)

_DROPPED_BITS = 52 - MANTISSA_BITS
_DROPPED = (1 << _DROPPED_BITS) - 1
HALF = 1 << (_DROPPED_BITS - 1)
_BIAS = 1023 << MANTISSA_BITS
_U6, _U9, _U12, _U32 = (np.uint64(bits) for bits in (6, 9, 12, 32))
_COIN_FACTOR = np.uint64(0xD1342543DE82EF95)
_LOW32 = np.uint64(0xFFFFFFFF)
_POSITION = np.uint64(0x9E3779B97F4A7C15)
_COIN = 1.0 / (1 << 52)
_SHRINK = 1.0 / (1 << RENORMALISE_OCTAVES)
_NO_LANE = 1 << 7
# The ring holds two blocks; of each a row of lines' addresses, tags, increments, rounding bits and the units from which
# a newcomer is turned away.
_BLOCK = np.uint64(BLOCK)
_TAG, _INCREMENT, _ROUNDING, _MOST, _ROWS = (np.uint64(row * BLOCK) for row in (1, 2, 3, 4, 5))
_TAG_BYTE, _INCREMENT_BYTE, _ROUNDING_BYTE, _MOST_BYTE = (8 * row * BLOCK for row in (1, 2, 3, 4))


@njit(nogil=True, cache=True, forceinline=True)
def decode_score(code):
    """The units that a code stands for, float64."""
    return float_of((np.int64(code) + _BIAS) << _DROPPED_BITS) - 1.0


@njit(nogil=True, cache=True, forceinline=True)
def encode_score(units, rounding):
    """The code of a number of units below 2^32; of `rounding` the low 41 bits are added before as many are dropped."""
    return ((bits_of(units + 1.0) + rounding) >> _DROPPED_BITS) - _BIAS


@njit(nogil=True, cache=True, forceinline=True)
def log2_floor(number):
    """The place of the highest set bit of a uint64 that is not 0."""
    place = np.uint64(0)
    while (number >> (place + np.uint64(1))) != np.uint64(0):
        place += np.uint64(1)
    return place


@njit(nogil=True, cache=True, forceinline=True)
def place_of(mixed, num_buckets, tag_shift):
    """Bucket and tag of a mixed key."""
    product = (mixed >> _U32) * num_buckets
    return product >> _U32, (((product & _LOW32) >> tag_shift) << _U32) | (mixed & _LOW32)


@njit(nogil=True, cache=True, forceinline=True)
def rebuild_key(bucket, tag, seed, num_buckets, tag_shift):
    """The key in this bucket with this tag."""
    product = (np.uint64(bucket) << _U32) | ((tag >> _U32) << tag_shift)
    high = product // num_buckets
    if product % num_buckets != np.uint64(0):
        high += np.uint64(1)
    return unmix64((high << _U32) | (tag & _LOW32)) ^ seed


@njit(nogil=True, cache=True, forceinline=True)
def num_tag_bytes(num_buckets):
    """How many bytes of a tag are in use beyond the six of low and mid: 0, 1 (the line's high bytes) or 2 (`wide`)."""
    return (num_buckets < 1 << 16) + (num_buckets < 1 << 8)


@njit(nogil=True, cache=True, forceinline=True)
def _high_bytes(line):
    return load_u32(line + HIGH_A) | (load_u16(line + HIGH_B) << 32) | (load_u16(line + HIGH_C) << 48)


@njit(nogil=True, cache=True, forceinline=True)
def read_tag(line, wide, tag_bytes, slot):
    """The tag in a slot of the bucket at these addresses."""
    tag = load_u32(line + 4 * slot) | (load_u16(line + MIDS + 2 * slot) << 32)
    if tag_bytes > 0:
        tag |= ((_high_bytes(line) >> (8 * slot)) & 0xFF) << 48
    if tag_bytes > 1:
        tag |= ((load_u64(wide) >> (8 * slot)) & 0xFF) << 56
    return np.uint64(tag)


@njit(nogil=True, cache=True, forceinline=True)
def _write(line, wide, tag_bytes, lane, tag, code):
    """Writes tag and score code into the lane, a mask of one bit or none.

    Every vector is written whole and at once, so that the next read of it can be served from the write.
    """
    if tag_bytes == 0:
        put_u32x8(line, lane, tag)
        put_u16x8(line + MIDS, lane, tag >> 32)
        put_u16x8(line + SCORES, lane, code)
    else:
        highs = put_bytes(_high_bytes(line), lane, tag >> 48)
        put_last_u32x8(line, lane, tag, highs)
        put_last_u16x8(line + MIDS, lane, tag >> 32, highs >> 32)
        put_last_u16x8(line + SCORES, lane, code, highs >> 48)
        if tag_bytes > 1:
            store_u64(wide, put_bytes(load_u64(wide), lane, tag >> 56))


@njit(nogil=True, cache=True, forceinline=True)
def _match(line, wide, tag_bytes, tag, used):
    """The lanes that hold the tag. An empty slot may match tag 0: adding to it is inserting there."""
    lanes = match_u32x8(line, tag) & match_u16x8(line + MIDS, tag >> 32) & used
    if tag_bytes > 0:
        lanes &= match_bytes(_high_bytes(line), tag >> 48)
    if tag_bytes > 1:
        lanes &= match_bytes(load_u64(wide), tag >> 56)
    return lanes


@njit(nogil=True, cache=True, forceinline=True)
def _decide(line, wide, tag_bytes, tag, increment, rounding, most, used):
    """What counting one key would do in its bucket: (lanes that hold it, its lane, its slot, old code, new code).

    The lane is the one to be written, 0 if the key is turned away. Writes nothing.
    """
    found = _match(line, wide, tag_bytes, tag, used)
    place = min_u16x8(line + SCORES, ~used) >> 16
    slot = lowest_bit(select(found, found, np.int64(1) << place))
    old = load_u16(line + SCORES + 2 * slot)
    one_more = float_of((old + _BIAS) << _DROPPED_BITS) + increment  # units + 1
    new = ((bits_of(one_more) + rounding) >> _DROPPED_BITS) - _BIAS
    # No select here: LLVM would make a jump of it, which depends on a coin.
    is_written = np.int64(one_more < most + 1.0) | np.int64(found != 0)
    return found, is_written << slot, slot, old, new


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")
def _prepare_some(ring, half, base, keys, scores, start, count, seed, step, scale, coin, num_buckets, tag_shift):
    """`_prepare`, where `step` is the first key's position times its factor."""
    for i in range(count):
        ring[half + _TAG + i] = np.int64(mix64(keys[start + i] ^ seed))
    for i in range(count):
        bucket, tag = place_of(np.uint64(ring[half + _TAG + i]), num_buckets, tag_shift)
        ring[half + i] = base + np.int64(bucket << _U6)
        ring[half + _TAG + i] = np.int64(tag)
    for i in range(count):
        random = (np.uint64(ring[half + _TAG + i]) ^ step) * _COIN_FACTOR
        step += _POSITION
        random ^= random >> _U32
        ring[half + _ROUNDING + i] = np.int64(random << _U9) & _DROPPED
        ring[half + _MOST + i] = bits_of(np.float64(np.int64(random >> _U12)) * coin)
    for i in range(count):
        increment = np.float64(scores[start + i]) * scale
        ring[half + _INCREMENT + i] = bits_of(increment)
        ring[half + _MOST + i] = bits_of(increment / float_of(ring[half + _MOST + i]))


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")
def _prepare(ring, half, base, keys, scores, start, count, seed, position, scale, coin, num_buckets, tag_shift):
    """Fills half of the ring with what counting the keys from `start` needs; `coin` is 0 to admit all, else 1."""
    step = (position + start) * _POSITION
    if count == _BLOCK:
        _prepare_some(ring, half, base, keys, scores, start, _BLOCK, seed, step, scale, coin, num_buckets, tag_shift)
    else:
        _prepare_some(ring, half, base, keys, scores, start, count, seed, step, scale, coin, num_buckets, tag_shift)


@njit(nogil=True, cache=True, forceinline=True)
def _shrink_increments(ring):
    """Follows a renormalisation: exact, so it does not matter which keys were hashed before it."""
    for half in (np.uint64(0), _ROWS):
        for i in range(_BLOCK):
            for row in (_INCREMENT, _MOST):
                ring[half + row + i] = bits_of(float_of(ring[half + row + i]) * _SHRINK)


@njit(nogil=True, cache=True)
def count_countable(scores, most):
    """How many scores are above 0 and at most `most` (a NaN is not)."""
    countable = 0
    for i in range(scores.shape[0]):
        countable += (scores[i] > 0) & (scores[i] <= most)
    return countable


@njit(nogil=True, cache=True)
def divide_scores(scores):
    """Divides every score of the (W, S) codes by 2^8, to the nearest code; never empties a slot."""
    for bucket in range(scores.shape[0]):
        for slot in range(scores.shape[1]):
            code = np.int64(scores[bucket, slot])
            if code > 0:
                scores[bucket, slot] = np.uint16(max(encode_score(decode_score(code) * _SHRINK, HALF), 1))


@njit(nogil=True, cache=True)
def _count_block(now, ahead, i, count, base, wide_base, tag_bytes, used):
    """`_count_some`, compiled for each number of tag bytes."""
    if tag_bytes == 0:
        return _count_some(now, ahead, i, count, base, wide_base, 0, used)
    if tag_bytes == 1:
        return _count_some(now, ahead, i, count, base, wide_base, 1, used)
    return _count_some(now, ahead, i, count, base, wide_base, 2, used)


@njit(nogil=True, cache=True, forceinline=True)
def _count_some(now, ahead, i, count, base, wide_base, tag_bytes, used):
    """Counts the i-th to the last key of a block; stops after one whose score came near the top, and says ~i of it."""
    while i < count:
        prefetch(load_u64(ahead + 8 * i))
        line, tag = load_u64(now + 8 * i), load_u64(now + _TAG_BYTE + 8 * i)
        increment = float_of(load_u64(now + _INCREMENT_BYTE + 8 * i))
        rounding = load_u64(now + _ROUNDING_BYTE + 8 * i)
        most = float_of(load_u64(now + _MOST_BYTE + 8 * i))
        wide_line = wide_base + ((line - base) >> 3)
        _, lane, _, _, new = _decide(line, wide_line, tag_bytes, tag, increment, rounding, most, used)
        _write(line, wide_line, tag_bytes, lane, tag, new)
        if new >= RENORMALISE_CODE:
            return ~i
        i += 1
    return i


@njit(nogil=True, cache=True, error_model="numpy")
def insert(lines, wide, scores_view, keys, scores, seed, position, scale, always_admit):
    """Counts the keys in order; returns the scale, which shrinks whenever a score came near the top of the codes.

    `scale` is the number of units of a score of 1, `position` the number of keys counted before; `lines` and `wide`
    are bytes, `scores_view` the (W, S) codes inside `lines`.
    """
    num_buckets, num_keys = np.uint64(scores_view.shape[0]) & _LOW32, np.uint64(keys.shape[0])
    tag_shift, tag_bytes = log2_floor(num_buckets), num_tag_bytes(num_buckets)
    base, wide_base = lines.ctypes.data, wide.ctypes.data
    used = np.int64((1 << scores_view.shape[1]) - 1)
    coin = 0.0 if always_admit else _COIN
    ring = np.full(2 * 5 * BLOCK, base, np.int64)
    start, half, count = np.uint64(0), np.uint64(0), min(_BLOCK, num_keys)
    _prepare(ring, half, base, keys, scores, start, count, seed, position, scale, coin, num_buckets, tag_shift)
    while count > np.uint64(0):
        start += count
        ahead, following = _ROWS - half, min(_BLOCK, num_keys - start)
        _prepare(ring, ahead, base, keys, scores, start, following, seed, position, scale, coin, num_buckets, tag_shift)
        now, next_block = ring.ctypes.data + 8 * np.int64(half), ring.ctypes.data + 8 * np.int64(ahead)
        i = _count_block(now, next_block, 0, np.int64(count), base, wide_base, tag_bytes, used)
        while i < 0:
            divide_scores(scores_view)
            _shrink_increments(ring)
            scale *= _SHRINK
            i = _count_block(now, next_block, ~i + 1, np.int64(count), base, wide_base, tag_bytes, used)
        half, count = ahead, following
    return scale


@njit(nogil=True, cache=True)
def query(lines, wide, scores_view, keys, seed, scale, estimates):
    """The score of each key, 0 where the sketch does not hold it."""
    num_buckets, num_keys = np.uint64(scores_view.shape[0]) & _LOW32, np.uint64(keys.shape[0])
    tag_shift, tag_bytes = log2_floor(num_buckets), num_tag_bytes(num_buckets)
    base, wide_base = lines.ctypes.data, wide.ctypes.data
    used = np.int64((1 << scores_view.shape[1]) - 1)
    ring = np.full(4 * BLOCK, base, np.int64)
    start, half, count = np.uint64(0), np.uint64(0), np.uint64(0)
    while start < num_keys or count > np.uint64(0):
        ahead, following = np.uint64(2 * BLOCK) - half, min(_BLOCK, num_keys - start)
        for i in range(following):
            bucket, tag = place_of(mix64(keys[start + i] ^ seed), num_buckets, tag_shift)
            ring[ahead + i] = base + np.int64(bucket << _U6)
            ring[ahead + _BLOCK + i] = np.int64(tag)
        for i in range(following):
            prefetch(ring[ahead + i])
        for i in range(count):
            line = ring[half + i]
            found = _match(line, wide_base + ((line - base) >> 3), tag_bytes, ring[half + _BLOCK + i], used)
            code = load_u16(line + SCORES + 2 * lowest_bit(found | _NO_LANE))
            estimates[start - count + i] = decode_score(code & -np.int64(found != 0)) / scale
        start, half, count = start + following, ahead, following


@njit(nogil=True, cache=True)
def rebuild_keys(lines, wide, num_buckets, places, seed, keys):
    """The keys in the given places (bucket * 8 + slot)."""
    num_buckets = np.uint64(num_buckets)
    tag_shift, tag_bytes = log2_floor(num_buckets), num_tag_bytes(num_buckets)
    base, wide_base = lines.ctypes.data, wide.ctypes.data
    for i in range(places.shape[0]):
        bucket, slot = places[i] >> 3, places[i] & 7
        tag = read_tag(base + bucket * LINE_BYTES, wide_base + bucket * 8, tag_bytes, slot)
        keys[i] = rebuild_key(bucket, tag, seed, num_buckets, tag_shift)


# ---- the hot set ---------------------------------------------------------------------------------------------------
#
# `tiers` (W, 8) uint16 says of every slot: COLD, WARM, or HOT + the row that its key owns modulo LOW_ROWS. The eighth
# column keeps a bucket's within one cache line; without it an insertion takes up to 5 % longer. What the modulo leaves
# of the row is in `high` (P, W, S) uint8, lowest byte first: P is 0 up to LOW_ROWS rows, 1 up to 256 times as many.
# Rows count from 0 here; the set's first row is added where they are told.
# `free_rows` int64 holds a bit a row, 64 to a word, the lowest first: whether it is free.
# `histogram` (NUM_BINS,) counts slots by score code, so the score at any rank is a short walk from the top.
# `limits` holds the codes from which a key is promoted and below which it is demoted (`sketch/review.py` sets them);
# the first three, by tier, are those from which a key matters to a review or, if it is hot, to the scale.
# `counts` holds the small integers of the state, `moments` the sums of recent increments and of their squares.
# Changes go to `out_*`, in order.

COLD, WARM, HOT = range(3)
LOW_ROWS = (1 << 16) - HOT
# Places in `limits` and in `counts`, and how many.
PROMOTE_WARM, PROMOTE_HOT, _, DEMOTE_HOT, DEMOTE_WARM, NUM_LIMITS = range(6)
NUM_FREE, NUM_WARM, NUM_CANDIDATES, HAND, HELD_HITS, HOT_HITS, LAST_ROW, NUM_COUNTS = range(8)


@njit(nogil=True, cache=True)
def count_scores(scores, histogram):
    """Fills the histogram afresh; its first bin, which holds the empty slots, counts nothing."""
    histogram[:] = 0
    for bucket in range(scores.shape[0]):
        for slot in range(scores.shape[1]):
            histogram[np.int64(scores[bucket, slot]) >> BIN_BITS] += 1


@njit(nogil=True, cache=True)
def leave(tiers, high, free_rows, counts, bucket, slot):
    """Takes the slot's tier away."""
    tier = np.int64(tiers[bucket, slot])
    if tier >= HOT:
        rest = 0
        for byte in range(high.shape[0]):
            rest |= np.int64(high[byte, bucket, slot]) << (8 * byte)
        row = tier - HOT + rest * LOW_ROWS
        free_rows[row >> 6] |= np.int64(1) << (row & 63)
        counts[NUM_FREE] += 1
    elif tier == WARM:
        counts[NUM_WARM] -= 1
    tiers[bucket, slot] = COLD


@njit(nogil=True, cache=True)
def take_row(tiers, high, free_rows, counts, bucket, slot, start):
    """Gives the slot the first free row from `start` on, or else from 0 on; returns it. One must be free."""
    word = start >> 6
    free = free_rows[word] & (np.int64(-1) << (start & 63))
    while free == 0:
        word = word + 1 if word + 1 < free_rows.shape[0] else 0
        free = free_rows[word]
    free_rows[word] ^= free & -free
    counts[NUM_FREE] -= 1
    row = word * 64 + lowest_bit(free)
    tiers[bucket, slot] = HOT + row % LOW_ROWS
    for byte in range(high.shape[0]):
        high[byte, bucket, slot] = (row // LOW_ROWS >> (8 * byte)) & 0xFF
    return row


@njit(nogil=True, cache=True)
def _count_block_tracked(
    now, ahead, i, count, base, wide_base, tier_base, limits, bins, hits, moments, tag_bytes, used
):
    """`_count_block` that keeps the histogram and stops after every key that matters to the tiers.

    Returns (keys counted, place, old code, new code, whether a tracked key had to go, its tag). Adds to `hits` how many
    keys were found, and how many of those were hot; to `moments` the increments and their squares, in units.
    """
    if tag_bytes == 0:
        return _count_some_tracked(
            now, ahead, i, count, base, wide_base, tier_base, limits, bins, hits, moments, 0, used
        )
    return _count_some_tracked(
        now, ahead, i, count, base, wide_base, tier_base, limits, bins, hits, moments, tag_bytes, used
    )


@njit(nogil=True, cache=True, forceinline=True)
def _count_some_tracked(now, ahead, i, count, base, wide_base, tier_base, limits, bins, hits, moments, tag_bytes, used):
    """`_count_block_tracked`, compiled for each number of tag bytes."""
    held, hot = load_u64(hits), load_u64(hits + 8)
    total, squares = float_of(load_u64(moments)), float_of(load_u64(moments + 8))
    while i < count:
        next_line = load_u64(ahead + 8 * i)
        prefetch(next_line)
        prefetch(tier_base + ((next_line - base) >> 2))
        line, tag = load_u64(now + 8 * i), load_u64(now + _TAG_BYTE + 8 * i)
        increment = float_of(load_u64(now + _INCREMENT_BYTE + 8 * i))
        rounding = load_u64(now + _ROUNDING_BYTE + 8 * i)
        most = float_of(load_u64(now + _MOST_BYTE + 8 * i))
        i += 1
        wide_line = wide_base + ((line - base) >> 3)
        found, lane, slot, old, new = _decide(line, wide_line, tag_bytes, tag, increment, rounding, most, used)
        written, is_new = np.int64(lane != 0), np.int64(found == 0)
        old_bin, new_bin = bins + ((old >> BIN_BITS) << 3), bins + ((new >> BIN_BITS) << 3)
        store_u64(old_bin, load_u64(old_bin) - written)
        store_u64(new_bin, load_u64(new_bin) + written)
        tier = min(load_u16(tier_base + ((line - base) >> 2) + 2 * slot), HOT)  # 0, 1 or 2
        total += increment
        squares += increment * increment
        held += 1 - is_new
        hot += (tier >> 1) & (1 - is_new)
        limit = load_u64(limits + 8 * tier)
        evicts = is_new & written & np.int64(tier != COLD)
        # Arithmetic, since LLVM makes a jump of each of several conditions, and these depend on a coin.
        if ((limit - 1 - (new & -written)) | -evicts) < 0:
            gone = read_tag(line, wide_line, tag_bytes, slot)
            _write(line, wide_line, tag_bytes, lane, tag, new)
            store_u64(hits, held)
            store_u64(hits + 8, hot)
            store_u64(moments, bits_of(total))
            store_u64(moments + 8, bits_of(squares))
            return i, ((line - base) >> 6) * 8 + slot, old, new, evicts != 0, gone
        _write(line, wide_line, tag_bytes, lane, tag, new)
    store_u64(hits, held)
    store_u64(hits + 8, hot)
    store_u64(moments, bits_of(total))
    store_u64(moments + 8, bits_of(squares))
    return i, -1, 0, 0, False, np.uint64(0)


@njit(nogil=True, cache=True, error_model="numpy")
def insert_tracked(
    lines, wide, scores_view, keys, scores, seed, position, scale, always_admit,
    tiers, high, histogram, limits, counts, moments, free_rows, candidates,
    out_key, out_tier, out_row, out_score,
):  # fmt: skip
    """`insert`, and what it does to the tiers; returns (scale, number of changes).

    A tracked key that loses its slot is cold from here on. A key whose score passes a limit becomes a candidate, for
    the next review to decide.
    """
    num_buckets, num_keys = np.uint64(scores_view.shape[0]) & _LOW32, np.uint64(keys.shape[0])
    tag_shift, tag_bytes = log2_floor(num_buckets), num_tag_bytes(num_buckets)
    base, wide_base = lines.ctypes.data, wide.ctypes.data
    tier_base, limits_base = tiers.ctypes.data, limits.ctypes.data
    bins, hits, moments_base = histogram.ctypes.data, counts.ctypes.data + 8 * HELD_HITS, moments.ctypes.data
    used = np.int64((1 << scores_view.shape[1]) - 1)
    coin = 0.0 if always_admit else _COIN
    num_out = 0
    ring = np.full(2 * 5 * BLOCK, base, np.int64)
    start, half, count = np.uint64(0), np.uint64(0), min(_BLOCK, num_keys)
    _prepare(ring, half, base, keys, scores, start, count, seed, position, scale, coin, num_buckets, tag_shift)
    while count > np.uint64(0):
        start += count
        ahead, following = _ROWS - half, min(_BLOCK, num_keys - start)
        _prepare(ring, ahead, base, keys, scores, start, following, seed, position, scale, coin, num_buckets, tag_shift)
        now, next_block = ring.ctypes.data + 8 * np.int64(half), ring.ctypes.data + 8 * np.int64(ahead)
        i = 0
        while i < np.int64(count):
            i, place, old, new, evicts, gone = _count_block_tracked(
                now, next_block, i, np.int64(count), base, wide_base, tier_base, limits_base, bins, hits,
                moments_base, tag_bytes, used,
            )  # fmt: skip
            if place < 0:
                break
            bucket, slot = place >> 3, place & 7
            if evicts:
                out_key[num_out] = rebuild_key(bucket, gone, seed, num_buckets, tag_shift)
                out_tier[num_out], out_row[num_out], out_score[num_out] = COLD, -1, decode_score(old) / scale
                num_out += 1
                leave(tiers, high, free_rows, counts, bucket, slot)
            tier = tiers[bucket, slot]
            if tier < HOT and new >= limits[tier]:
                candidates[counts[NUM_CANDIDATES]] = place
                counts[NUM_CANDIDATES] += 1
            if new >= RENORMALISE_CODE:
                divide_scores(scores_view)
                _shrink_increments(ring)
                scale *= _SHRINK
                moments[0] *= _SHRINK
                moments[1] *= _SHRINK * _SHRINK
                count_scores(scores_view, histogram)
                for limit in (PROMOTE_WARM, PROMOTE_HOT, DEMOTE_HOT, DEMOTE_WARM):
                    limits[limit] = max(encode_score(decode_score(limits[limit]) * _SHRINK, HALF), 1)
        half, count = ahead, following
    return scale, num_out
