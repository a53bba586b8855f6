"""The loops of HotSet: counting keys while it is known which are hot, and the rows of the hot ones.

The last byte of a bucket's line has one bit for each slot: whether its key is hot. So counting reads and writes exactly
what it does in `HotSketch`, and the other arrays are touched only where the hot set changes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.changes import NO_ROW
from sketch.kernels import (
    BLOCK,
    BLOCK_KEYS,
    COIN,
    HALF,
    HALF_RING,
    HIGH_C,
    INCREMENT_BYTE,
    LINE_BYTES,
    LOW32,
    MOST_BYTE,
    RENORMALISE_CODE,
    ROUNDING_BYTE,
    SHRINK,
    TAG_BYTE,
    decide,
    decode_score,
    divide_scores,
    encode_score,
    log2_floor,
    num_tag_bytes,
    prepare,
    read_tag,
    rebuild_key,
    shrink_increments,
    write,
)
from sketch.simd import bits_of, float_of, load_u16, load_u64, lowest_bit, prefetch, store_u64
from sketch.vectors import first_lanes, first_word, mask_bits, second_word

__all__ = ["Buffers", "State", "count_scores", "free_row", "insert_tracked", "renormalise", "take_row"]

BIN_BITS = 5  # codes of one histogram bin: 1.6 % wide
NUM_BINS = 1 << (16 - BIN_BITS)
LOW_ROWS = 1 << 16
HOT_BYTE = LINE_BYTES - 1
SLOT_BITS = 44  # of a slot's complement, below its score in a candidate
SLOT_MASK = (1 << SLOT_BITS) - 1
_FIRST_HOT_BIT = 8 * (HOT_BYTE - HIGH_C)
# Indices into `limits` and `counts`, and their lengths.
PROMOTE, DEMOTE, NUM_LIMITS = range(3)
NUM_FREE, NUM_CANDIDATES, HAND, HELD_HITS, HOT_HITS, LAST_ROW, NUM_COUNTS = range(7)
_CANDIDATES_BYTE, _HELD_BYTE, _HOT_BYTE = (8 * index for index in (NUM_CANDIDATES, HELD_HITS, HOT_HITS))


class State(NamedTuple):
    """The arrays of a hot set. Rows count from 0 here; changes add the set's first row.

    Attributes:
        low: (W, S) uint16, the row of each hot slot's key, modulo 2^16.
        high: (P, W, S) uint8, the row divided by 2^16, lowest byte first. P is 0 up to 2^16 rows, 1 up to 2^24.
        free_rows: int64, one bit per row, 64 to a word, lowest first: whether the row is free.
        histogram: (NUM_BINS,) int64, slots per bin of score codes. A walk from its top finds the score at a rank.
        limits: (NUM_LIMITS,) int64, the codes from which a key is promoted and below which it is demoted.
        counts: (NUM_COUNTS,) int64, the small integers of the state.
        moments: (2,) float64, the sums of recent increments and of their squares.
        drift: (4,) float64, the averages of `sketch/drift.py`.
        candidates: int64, slots whose key passed the limit since the last review: the code, and below it the complement
            of bucket * 8 + slot. So the largest word is the best score, of equal ones the first slot. A slot may be
            listed more than once, with its code last, which is its largest.
    """

    low: npt.NDArray[np.uint16]
    high: npt.NDArray[np.uint8]
    free_rows: npt.NDArray[np.int64]
    histogram: npt.NDArray[np.int64]
    limits: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    moments: npt.NDArray[np.float64]
    drift: npt.NDArray[np.float64]
    candidates: npt.NDArray[np.int64]


class Buffers(NamedTuple):
    """The changes of an update, in order: keys, rows and scores."""

    key: npt.NDArray[np.uint64]
    row: npt.NDArray[np.int32]
    score: npt.NDArray[np.float32]


@njit(nogil=True, cache=True)
def count_scores(codes, histogram):
    """Recomputes the histogram; its first bin, which has the empty slots, is never read."""
    histogram[:] = 0
    for bucket in range(codes.shape[0]):
        for slot in range(codes.shape[1]):
            histogram[np.int64(codes[bucket, slot]) >> BIN_BITS] += 1


@njit(nogil=True, cache=True, forceinline=True)
def candidate(code, index):
    """The entry of a slot (bucket * 8 + slot) in the list of candidates."""
    return (code << SLOT_BITS) | (SLOT_MASK - index)


@njit(nogil=True, cache=True)
def renormalise(codes, state):
    """Divides all scores by 2^8, and with them the histogram and the moments."""
    divide_scores(codes)
    count_scores(codes, state.histogram)
    for i in range(state.counts[NUM_CANDIDATES]):
        index = SLOT_MASK - (state.candidates[i] & SLOT_MASK)
        state.candidates[i] = candidate(np.int64(codes[index >> 3, index & 7]), index)
    state.moments[0] *= SHRINK
    state.moments[1] *= SHRINK * SHRINK


@njit(nogil=True, cache=True)
def row_at(state, bucket, slot):
    """The row of a hot slot."""
    row = np.int64(state.low[bucket, slot])
    for byte in range(state.high.shape[0]):
        row |= np.int64(state.high[byte, bucket, slot]) << (16 + 8 * byte)
    return row


@njit(nogil=True, cache=True)
def free_row(lines, state, bucket, slot):
    """Makes a hot slot cold and frees its row."""
    row = row_at(state, bucket, slot)
    state.free_rows[row >> 6] |= np.int64(1) << (row & 63)
    state.counts[NUM_FREE] += 1
    lines[bucket * LINE_BYTES + HOT_BYTE] &= ~(1 << slot)


@njit(nogil=True, cache=True)
def take_row(lines, state, bucket, slot):
    """Makes a cold slot hot; returns its row. One must be free.

    The search goes on from the last row: a free one is soon found, and a row rests before it is assigned again.
    """
    start, free_rows = state.counts[LAST_ROW], state.free_rows
    word = start >> 6
    free = free_rows[word] & (np.int64(-1) << (start & 63))
    while free == 0:
        word = word + 1 if word + 1 < free_rows.shape[0] else 0
        free = free_rows[word]
    free_rows[word] ^= free & -free
    row = word * 64 + lowest_bit(free)
    state.counts[NUM_FREE] -= 1
    state.counts[LAST_ROW] = row
    state.low[bucket, slot] = row & 0xFFFF
    for byte in range(state.high.shape[0]):
        state.high[byte, bucket, slot] = (row >> (16 + 8 * byte)) & 0xFF
    lines[bucket * LINE_BYTES + HOT_BYTE] |= 1 << slot
    return row


@njit(nogil=True, cache=True)
def _count_block(now, ahead, i, count, base, wide_base, promote, bins, counts, moments, candidates, tag_bytes, slots):
    """Counts a block's keys from the i-th on, and stops after every key that evicts a hot one or renormalises.

    Keeps the histogram, the numbers of keys that had a slot and that were hot, the increments and their squares, and
    the candidates. Returns (keys counted, slot or -1, old code, new code, whether a hot key was evicted, its tag).
    """
    if tag_bytes == 0:
        return _count_some(now, ahead, i, count, base, wide_base, promote, bins, counts, moments, candidates, 0, slots)
    if tag_bytes == 1:
        return _count_some(now, ahead, i, count, base, wide_base, promote, bins, counts, moments, candidates, 1, slots)
    return _count_some(now, ahead, i, count, base, wide_base, promote, bins, counts, moments, candidates, 2, slots)


@njit(nogil=True, cache=True, forceinline=True)
def _count_some(now, ahead, i, count, base, wide_base, promote, bins, counts, moments, candidates, tag_bytes, slots):
    """`_count_block`, compiled for each number of tag bytes."""
    used = first_lanes(slots)
    held, hot = load_u64(counts + _HELD_BYTE), load_u64(counts + _HOT_BYTE)
    next_candidate = candidates + 8 * load_u64(counts + _CANDIDATES_BYTE)
    total, squares = float_of(load_u64(moments)), float_of(load_u64(moments + 8))
    index, old, new, evicts, evicted_tag = -1, 0, 0, 0, np.uint64(0)
    while i < count:
        prefetch(load_u64(ahead + 8 * i))
        line, tag = load_u64(now + 8 * i), now + TAG_BYTE + 8 * i
        increment = float_of(load_u64(now + INCREMENT_BYTE + 8 * i))
        rounding = load_u64(now + ROUNDING_BYTE + 8 * i)
        most = float_of(load_u64(now + MOST_BYTE + 8 * i))
        i += 1
        wide_line = wide_base + ((line - base) >> 3)
        found, lane, first, olds, news = decide(line, wide_line, tag_bytes, tag, increment, rounding, most, used)
        slot, old, new = second_word(first), first_word(olds), first_word(news)
        written, is_held = np.int64(mask_bits(lane) != 0), np.int64(mask_bits(found) != 0)
        old_bin, new_bin = bins + ((old >> BIN_BITS) << 3), bins + ((new >> BIN_BITS) << 3)
        store_u64(old_bin, load_u64(old_bin) - written)
        store_u64(new_bin, load_u64(new_bin) + written)
        is_hot = (load_u16(line + HIGH_C) >> (_FIRST_HOT_BIT + slot)) & 1
        total += increment
        squares += increment * increment
        held += is_held
        hot += is_hot & is_held
        # Arithmetic, since LLVM would turn the conditions into branches on a random number.
        reached = new & -written
        store_u64(next_candidate, candidate(new, ((line - base) >> 3) + slot))
        next_candidate += ((promote - 1 - (reached & (is_hot - 1))) >> 63) & 8
        evicts = is_hot & written & (1 - is_held)
        if ((RENORMALISE_CODE - 1 - reached) | -evicts) < 0:
            index = ((line - base) >> 3) + slot
            evicted_tag = read_tag(line, wide_line, tag_bytes, slot)
            write(line, wide_line, tag_bytes, lane, tag, news)
            break
        write(line, wide_line, tag_bytes, lane, tag, news)
    store_u64(counts + _HELD_BYTE, held)
    store_u64(counts + _HOT_BYTE, hot)
    store_u64(counts + _CANDIDATES_BYTE, (next_candidate - candidates) >> 3)
    store_u64(moments, bits_of(total))
    store_u64(moments + 8, bits_of(squares))
    return i, index, old, new, evicts, evicted_tag


@njit(nogil=True, cache=True, error_model="numpy")
def insert_tracked(table, keys, scores, seed, position, scale, always_admit, state, out, num_out):
    """`kernels.insert` that knows the hot keys; returns (scale, number of changes).

    An evicted key becomes cold. A cold key whose score passes the limit becomes a candidate of the next review.
    """
    lines, wide, codes = table
    num_buckets, num_keys = np.uint64(codes.shape[0]) & LOW32, np.uint64(keys.shape[0])
    tag_shift, tag_bytes = log2_floor(num_buckets), num_tag_bytes(num_buckets)
    base, wide_base = lines.ctypes.data, wide.ctypes.data
    bins, counts, moments = state.histogram.ctypes.data, state.counts.ctypes.data, state.moments.ctypes.data
    candidates, limits = state.candidates.ctypes.data, state.limits
    coin = 0.0 if always_admit else COIN
    ring = np.full(2 * 5 * BLOCK, base, np.int64)
    start, half, count = np.uint64(0), np.uint64(0), min(BLOCK_KEYS, num_keys)
    prepare(ring, half, base, keys, scores, start, count, seed, position, scale, coin, num_buckets, tag_shift)
    while count > np.uint64(0):
        start += count
        ahead, following = HALF_RING - half, min(BLOCK_KEYS, num_keys - start)
        prepare(ring, ahead, base, keys, scores, start, following, seed, position, scale, coin, num_buckets, tag_shift)
        now, next_block = ring.ctypes.data + 8 * np.int64(half), ring.ctypes.data + 8 * np.int64(ahead)
        i = 0
        while i < np.int64(count):
            i, index, old, new, evicts, evicted_tag = _count_block(
                now, next_block, i, np.int64(count), base, wide_base, limits[PROMOTE], bins, counts, moments,
                candidates, tag_bytes, codes.shape[1],
            )  # fmt: skip
            if evicts:
                bucket, slot = index >> 3, index & 7
                out.key[num_out] = rebuild_key(bucket, evicted_tag, seed, num_buckets, tag_shift)
                out.row[num_out], out.score[num_out] = NO_ROW, decode_score(old) / scale
                num_out += 1
                free_row(lines, state, bucket, slot)
                if new >= limits[PROMOTE]:
                    state.candidates[state.counts[NUM_CANDIDATES]] = candidate(new, index)
                    state.counts[NUM_CANDIDATES] += 1
            if index >= 0 and new >= RENORMALISE_CODE:
                renormalise(codes, state)
                shrink_increments(ring)
                scale *= SHRINK
                for limit in (PROMOTE, DEMOTE):
                    limits[limit] = max(encode_score(decode_score(limits[limit]) * SHRINK, HALF), 1)
        half, count = ahead, following
    return scale, num_out
