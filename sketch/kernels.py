"""The loops of HotSketch. They mutate arrays in place and allocate nothing per key.

A bucket is one cache line of 64 bytes with seven slots:

    byte   0         28        32        46        48        62       63
           | tag low | tag high | tag mid | tag high | score   | tag high | hot |
           | 7 x u32 | of 0..3  | 7 x u16 | of 4, 5  | 7 x u16 | of 6     |     |

so low, mid and score are one aligned vector each, read once and written once. The last byte belongs to HotSet: bit i is
set while the key in slot i is hot. So a hot set reads no second cache line for an event that changes nothing.

**Tag.** The key is mixed invertibly. The high half of the mixed word, times the number of buckets W, gives the bucket
(high 32 bits) and a remainder (low 32 bits). All but the lowest log2(W) bits of the remainder distinguish the high
halves within one bucket; together with the low half of the mixed word they are the tag. From 256 buckets up a tag has
at most 56 bits, so a line holds the whole tag and `rebuild_key` recovers the key; from 2^16 up it has at most 48, and
the high bytes are unused. Smaller sketches keep a top byte in a separate array, `wide`.

**Score.** A code has a 5-bit exponent e and an 11-bit mantissa m and represents 2^e (1 + m / 2048) - 1 units. So codes
compare as scores do, they are evenly spaced below one unit, and code 0 is an empty slot. Sums use stochastic rounding,
which keeps their expectation however small the increments are: the code changes by `floor(x + u)`, u uniform. In
float64 this adds random bits below the mantissa and truncates. A newcomer whose code would be 0 leaves its slot empty.

**Admission.** A newcomer with an increment of x units to a full bucket takes the slot of the smallest score m (the
first of equals) if `m + x < x / u` (always under `replace_min`). Its score is then m + x.

**Randomness.** `r = (tag ^ position * GOLDEN_RATIO) * RANDOM_MULTIPLIER`, `r ^= r >> 32`: its high 52 bits are the u of
the admission, its low 32 bits the first 32 of the 41 rounding bits (the tag is mixed already, and one multiplication
mixes the high half of r well, which decides). The position in the stream is the only state, so every split of the
stream into batches gives the same sketch.

**Speed.** Only rare branches depend on the data: a hit, an admission and a rejection run the same instructions and
differ in the mask of the written lanes. Keys are hashed one block ahead, and their lines are prefetched while the
previous block is counted. Hashing runs on vectors of four keys and is bound by the latency of 64-bit multiplications: a
loop of `_prepare_some` has a chain of two at most, and the compiler knows the number of iterations over a whole block.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sketch.hashing import GOLDEN_RATIO, RANDOM_MULTIPLIER, mix64, unmix64
from sketch.simd import bits_of, float_of, load_u16, load_u32, load_u64, lowest_bit, prefetch
from sketch.vectors import (
    both,
    but_not,
    choose_bytes,
    choose_u16x8,
    choose_u32x8,
    either,
    equal_bytes,
    equal_u16x8,
    equal_u32x8,
    first_lanes,
    first_smallest,
    first_word,
    float_of_word,
    gather_bytes,
    invert,
    is_less,
    lane_found,
    load_bytes,
    load_u16x8,
    load_u32x8,
    mask_bits,
    put_last_u16x8,
    put_last_u32x8,
    repeat_byte,
    repeat_u16x8,
    repeat_u32x8,
    store_bytes,
    store_u16x8,
    store_u32x8,
    words_of_float,
)

LINE_BYTES = 64
MAX_SLOTS = 7
HIGH_A, MIDS, HIGH_B, SCORES, HIGH_C = 28, 32, 46, 48, 62  # byte offsets of the parts of a line
FIRST_SCORE = SCORES // 2
MANTISSA_BITS = 11
# An increment is at most 2^20 scores of 2^11 units: a score below this code can take one more and stay below 2^32.
RENORMALISE_CODE = 30 << MANTISSA_BITS
RENORMALISE_OCTAVES = 8
MAX_SCALE = float(1 << 11)  # units of a score of 1
BLOCK = 64  # keys hashed and prefetched ahead of their insertion

_DROPPED_BITS = 52 - MANTISSA_BITS
_DROPPED = (1 << _DROPPED_BITS) - 1
HALF = 1 << (_DROPPED_BITS - 1)
_BIAS = 1023 << MANTISSA_BITS
_U6, _U9, _U12, _U32 = (np.uint64(bits) for bits in (6, 9, 12, 32))
LOW32 = np.uint64(0xFFFFFFFF)
COIN = 1.0 / (1 << 52)
SHRINK = 1.0 / (1 << RENORMALISE_OCTAVES)
_NO_LANE = 1 << 7
# The ring holds two blocks. A block has one row each of the lines' addresses, tags, increments, rounding bits, and the
# units from which a newcomer is rejected.
BLOCK_KEYS = np.uint64(BLOCK)
_TAG, _INCREMENT, _ROUNDING, _MOST, HALF_RING = (np.uint64(row * BLOCK) for row in (1, 2, 3, 4, 5))
TAG_BYTE, INCREMENT_BYTE, ROUNDING_BYTE, MOST_BYTE = (8 * row * BLOCK for row in (1, 2, 3, 4))


@njit(nogil=True, cache=True, forceinline=True)
def decode_score(code):
    """Decodes a score: units, float64."""
    return float_of((np.int64(code) + _BIAS) << _DROPPED_BITS) - 1.0


@njit(nogil=True, cache=True, forceinline=True)
def encode_score(units, rounding):
    """The code of a number of units below 2^32. The low 41 bits of `rounding` are added, then 41 bits are dropped."""
    return ((bits_of(units + 1.0) + rounding) >> _DROPPED_BITS) - _BIAS


@njit(nogil=True, cache=True, forceinline=True)
def log2_floor(number):
    """The index of the highest set bit of a uint64 that is not 0."""
    index = np.uint64(0)
    while (number >> (index + np.uint64(1))) != np.uint64(0):
        index += np.uint64(1)
    return index


@njit(nogil=True, cache=True, forceinline=True)
def locate(mixed, num_buckets, tag_shift):
    """The bucket and the tag of a mixed key."""
    product = (mixed >> _U32) * num_buckets
    return product >> _U32, (((product & LOW32) >> tag_shift) << _U32) | (mixed & LOW32)


@njit(nogil=True, cache=True, forceinline=True)
def rebuild_key(bucket, tag, seed, num_buckets, tag_shift):
    """The key in this bucket with this tag."""
    product = (np.uint64(bucket) << _U32) | ((tag >> _U32) << tag_shift)
    high = product // num_buckets
    if product % num_buckets != np.uint64(0):
        high += np.uint64(1)
    return unmix64((high << _U32) | (tag & LOW32)) ^ seed


@njit(nogil=True, cache=True, forceinline=True)
def num_tag_bytes(num_buckets):
    """The number of tag bytes beyond the six of low and mid: 0, 1 (the line's high bytes) or 2 (and `wide`)."""
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
def _gather_highs(line):
    return gather_bytes(line + HIGH_A, line + HIGH_B, line + HIGH_C)


@njit(nogil=True, cache=True, forceinline=True)
def _match(line, wide, tag_bytes, tag, used):
    """The mask of the slots that hold a tag, `tag` is its address. An empty slot may match tag 0.

    Adding to such a slot inserts the key there: it is the first empty one.
    """
    found = both(
        equal_u32x8(load_u32x8(line), repeat_u32x8(load_u32(tag))),
        both(equal_u16x8(load_u16x8(line + MIDS), repeat_u16x8(load_u16(tag + 4))), used),
    )
    if tag_bytes > 0:
        found = both(found, equal_bytes(_gather_highs(line), repeat_byte(load_u16(tag + 6))))
    if tag_bytes > 1:
        found = both(found, equal_bytes(load_bytes(wide), repeat_byte(load_u16(tag + 6) >> 8)))
    return found


@njit(nogil=True, cache=True, forceinline=True)
def write(line, wide, tag_bytes, written, tag, codes):
    """Writes the tag at the address `tag` and the score code into the masked slot, if any.

    Each vector is stored whole, so that the next load of it can be forwarded from the store.
    """
    lows = choose_u32x8(written, repeat_u32x8(load_u32(tag)), load_u32x8(line))
    mids = choose_u16x8(written, repeat_u16x8(load_u16(tag + 4)), load_u16x8(line + MIDS))
    scores = choose_u16x8(written, codes, load_u16x8(line + SCORES))
    if tag_bytes > 0:
        highs = choose_bytes(written, repeat_byte(load_u16(tag + 6)), _gather_highs(line))
        lows, mids, scores = (
            put_last_u32x8(lows, highs, 0),
            put_last_u16x8(mids, highs, 2),
            put_last_u16x8(scores, highs, 3),
        )
    if tag_bytes > 1:
        store_bytes(wide, choose_bytes(written, repeat_byte(load_u16(tag + 6) >> 8), load_bytes(wide)))
    store_u32x8(line, lows)
    store_u16x8(line + MIDS, mids)
    store_u16x8(line + SCORES, scores)


@njit(nogil=True, cache=True, forceinline=True)
def decide(line, wide, tag_bytes, tag, increment, rounding, most, used):
    """Computes the effect of one key on its bucket; writes nothing.

    Everything is a vector, since moving words between the two kinds of registers takes longest on the way from a key's
    line to its new score, and only as many keys overlap as fit into the processor's window.

    Returns:
        found: the mask of the slot that holds the key.
        written: the mask of the slot to write, of none if the key is rejected.
        first: its index is the second word.
        old: the slot's code is the first word.
        new: eight times the new code.
    """
    codes = load_u16x8(line + SCORES)
    found = _match(line, wide, tag_bytes, tag, used)
    # Score 0 lets the key's own slot win: the empty ones, which are 0, too, follow all others.
    first = first_smallest(either(but_not(codes, found), invert(used)))
    lane = lane_found(first)
    old = first_smallest(either(codes, invert(lane)))
    one_more = float_of_word(old, _BIAS, _DROPPED_BITS) + increment  # units + 1
    new = words_of_float(one_more, rounding, _DROPPED_BITS, _BIAS)
    return found, both(lane, either(found, is_less(one_more, most + 1.0))), first, old, new


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")
def _prepare_some(ring, half, base, keys, scores, start, count, seed, step, scale, coin, num_buckets, tag_shift):
    """`prepare`, where `step` is the first key's position times GOLDEN_RATIO."""
    for i in range(count):
        ring[half + _TAG + i] = np.int64(mix64(keys[start + i] ^ seed))
    for i in range(count):
        bucket, tag = locate(np.uint64(ring[half + _TAG + i]), num_buckets, tag_shift)
        ring[half + i] = base + np.int64(bucket << _U6)
        ring[half + _TAG + i] = np.int64(tag)
    for i in range(count):
        random = (np.uint64(ring[half + _TAG + i]) ^ step) * RANDOM_MULTIPLIER
        step += GOLDEN_RATIO
        random ^= random >> _U32
        ring[half + _ROUNDING + i] = np.int64(random << _U9) & _DROPPED
        ring[half + _MOST + i] = bits_of(np.float64(np.int64(random >> _U12)) * coin)
    for i in range(count):
        increment = np.float64(scores[start + i]) * scale
        ring[half + _INCREMENT + i] = bits_of(increment)
        ring[half + _MOST + i] = bits_of(increment / float_of(ring[half + _MOST + i]))


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")
def prepare(ring, half, base, keys, scores, start, count, seed, position, scale, coin, num_buckets, tag_shift):
    """Fills half of the ring for counting the keys from `start`; `coin` is 0 to admit every newcomer, else `COIN`."""
    step = (position + start) * GOLDEN_RATIO
    if count == BLOCK_KEYS:
        _prepare_some(
            ring, half, base, keys, scores, start, BLOCK_KEYS, seed, step, scale, coin, num_buckets, tag_shift
        )
    else:
        _prepare_some(ring, half, base, keys, scores, start, count, seed, step, scale, coin, num_buckets, tag_shift)


@njit(nogil=True, cache=True, forceinline=True)
def shrink_increments(ring):
    """Applies a renormalisation to the ring: exact, so it does not matter which keys were hashed before it."""
    for half in (np.uint64(0), HALF_RING):
        for i in range(BLOCK_KEYS):
            for row in (_INCREMENT, _MOST):
                ring[half + row + i] = bits_of(float_of(ring[half + row + i]) * SHRINK)


@njit(nogil=True, cache=True)
def count_countable(scores, most):
    """The number of scores that are positive and at most `most` (NaN is not)."""
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
                scores[bucket, slot] = np.uint16(max(encode_score(decode_score(code) * SHRINK, HALF), 1))


@njit(nogil=True, cache=True)
def _count_block(now, ahead, i, count, base, wide_base, tag_bytes, used):
    """`_count_some`, compiled for each number of tag bytes."""
    if tag_bytes == 0:
        return _count_some(now, ahead, i, count, base, wide_base, 0, used)
    if tag_bytes == 1:
        return _count_some(now, ahead, i, count, base, wide_base, 1, used)
    return _count_some(now, ahead, i, count, base, wide_base, 2, used)


@njit(nogil=True, cache=True, forceinline=True)
def _count_some(now, ahead, i, count, base, wide_base, tag_bytes, num_slots):
    """Counts a block from its i-th key; returns ~i after a key whose score came near the top of the codes."""
    used = first_lanes(num_slots)
    while i < count:
        prefetch(load_u64(ahead + 8 * i))
        line, tag = load_u64(now + 8 * i), now + TAG_BYTE + 8 * i
        increment = float_of(load_u64(now + INCREMENT_BYTE + 8 * i))
        rounding = load_u64(now + ROUNDING_BYTE + 8 * i)
        most = float_of(load_u64(now + MOST_BYTE + 8 * i))
        wide_line = wide_base + ((line - base) >> 3)
        _, written, _, _, new = decide(line, wide_line, tag_bytes, tag, increment, rounding, most, used)
        write(line, wide_line, tag_bytes, written, tag, new)
        if first_word(new) >= RENORMALISE_CODE:
            return ~i
        i += 1
    return i


@njit(nogil=True, cache=True, error_model="numpy")
def insert(lines, wide, scores_view, keys, scores, seed, position, scale, always_admit):
    """Counts the keys in order; returns the scale, which shrinks whenever a score comes near the top of the codes.

    `scale` is the number of units of a score of 1, `position` the number of keys counted before. `lines` and `wide`
    are bytes, `scores_view` is the (W, S) codes inside `lines`.
    """
    num_buckets, num_keys = np.uint64(scores_view.shape[0]) & LOW32, np.uint64(keys.shape[0])
    tag_shift, tag_bytes = log2_floor(num_buckets), num_tag_bytes(num_buckets)
    base, wide_base = lines.ctypes.data, wide.ctypes.data
    used = scores_view.shape[1]
    coin = 0.0 if always_admit else COIN
    ring = np.full(2 * 5 * BLOCK, base, np.int64)
    start, half, count = np.uint64(0), np.uint64(0), min(BLOCK_KEYS, num_keys)
    prepare(ring, half, base, keys, scores, start, count, seed, position, scale, coin, num_buckets, tag_shift)
    while count > np.uint64(0):
        start += count
        ahead, following = HALF_RING - half, min(BLOCK_KEYS, num_keys - start)
        prepare(ring, ahead, base, keys, scores, start, following, seed, position, scale, coin, num_buckets, tag_shift)
        now, next_block = ring.ctypes.data + 8 * np.int64(half), ring.ctypes.data + 8 * np.int64(ahead)
        i = _count_block(now, next_block, 0, np.int64(count), base, wide_base, tag_bytes, used)
        while i < 0:
            divide_scores(scores_view)
            shrink_increments(ring)
            scale *= SHRINK
            i = _count_block(now, next_block, ~i + 1, np.int64(count), base, wide_base, tag_bytes, used)
        half, count = ahead, following
    return scale


@njit(nogil=True, cache=True)
def query(lines, wide, scores_view, keys, seed, scale, estimates):
    """Fills the score of each key, 0 for keys without a slot."""
    num_buckets, num_keys = np.uint64(scores_view.shape[0]) & LOW32, np.uint64(keys.shape[0])
    tag_shift, tag_bytes = log2_floor(num_buckets), num_tag_bytes(num_buckets)
    base, wide_base = lines.ctypes.data, wide.ctypes.data
    used = scores_view.shape[1]
    ring = np.full(4 * BLOCK, base, np.int64)
    start, half, count = np.uint64(0), np.uint64(0), np.uint64(0)
    while start < num_keys or count > np.uint64(0):
        ahead, following = np.uint64(2 * BLOCK) - half, min(BLOCK_KEYS, num_keys - start)
        for i in range(following):
            bucket, tag = locate(mix64(keys[start + i] ^ seed), num_buckets, tag_shift)
            ring[ahead + i] = base + np.int64(bucket << _U6)
            ring[ahead + BLOCK_KEYS + i] = np.int64(tag)
        for i in range(following):
            prefetch(ring[ahead + i])
        for i in range(count):
            line = ring[half + i]
            tag = ring.ctypes.data + 8 * np.int64(half + BLOCK_KEYS + i)
            found = mask_bits(_match(line, wide_base + ((line - base) >> 3), tag_bytes, tag, first_lanes(used)))
            code = load_u16(line + SCORES + 2 * lowest_bit(found | _NO_LANE))
            estimates[start - count + i] = decode_score(code & -np.int64(found != 0)) / scale
        start, half, count = start + following, ahead, following


@njit(nogil=True, cache=True)
def rebuild_keys(lines, wide, num_buckets, slots, seed, keys):
    """Fills the keys in the given slots (flat indices: bucket * 8 + slot)."""
    num_buckets = np.uint64(num_buckets)
    tag_shift, tag_bytes = log2_floor(num_buckets), num_tag_bytes(num_buckets)
    base, wide_base = lines.ctypes.data, wide.ctypes.data
    for i in range(slots.shape[0]):
        bucket, slot = slots[i] >> 3, slots[i] & 7
        tag = read_tag(base + bucket * LINE_BYTES, wide_base + bucket * 8, tag_bytes, slot)
        keys[i] = rebuild_key(bucket, tag, seed, num_buckets, tag_shift)
