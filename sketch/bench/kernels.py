"""Baselines of HotSketch: one read-modify-write of a line per key, and the paper's rule in plain numba."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.hashing import Keys, mix64
from sketch.simd import load_u32, prefetch, store_u32

__all__ = ["replace_min_plain", "touch_lines"]

_AHEAD = np.uint64(32)
_U6, _U32 = np.uint64(6), np.uint64(32)


@njit(nogil=True, cache=True, forceinline=True)
def _locate_lines(
    ring: Any, half: Any, base: Any, keys: Keys, start: Any, count: Any, seed: np.uint64, num_lines: Any
) -> None:
    for i in range(count):
        ring[half + i] = base + np.int64(((mix64(keys[start + i] ^ seed) >> _U32) * num_lines >> _U32) << _U6)


@njit(nogil=True, cache=True)
def touch_lines(lines: npt.NDArray[np.uint32], keys: Keys, seed: np.uint64) -> None:
    """Adds 1 to the first word of a hashed line per key, prefetched a block ahead, as in HotSketch.

    Args:
        lines: (W, 16) uint32, contiguous.
        keys: (K,) uint64.
        seed: uint64.
    """
    num_keys, num_lines = np.uint64(keys.shape[0]), np.uint64(lines.shape[0])
    base = lines.ctypes.data
    ring = np.full(2 * _AHEAD, base, np.int64)
    start, half, count = np.uint64(0), np.uint64(0), min(_AHEAD, num_keys)
    _locate_lines(ring, half, base, keys, start, count, seed, num_lines)
    while count > np.uint64(0):
        start += count
        ahead, following = _AHEAD - half, min(_AHEAD, num_keys - start)
        _locate_lines(ring, ahead, base, keys, start, following, seed, num_lines)
        for i in range(count):
            prefetch(ring[ahead + i])
            line = ring[half + i]
            store_u32(line, load_u32(line) + 1)
        half, count = ahead, following


@njit(nogil=True, cache=True)
def replace_min_plain(table_keys: Keys, table_scores: Any, keys: Keys, scores: Any, seed: np.uint64) -> None:
    """The paper's rule, written plainly: (W, S) keys and scores in two arrays, no prefetch. Key 0 is empty."""
    num_buckets, slots = np.uint64(table_keys.shape[0]), table_keys.shape[1]
    for i in range(keys.shape[0]):
        key = keys[i]
        bucket = (mix64(key ^ seed) >> _U32) * num_buckets >> _U32
        least, target = table_scores[bucket, 0], 0
        for slot in range(slots):
            if table_keys[bucket, slot] == key:
                target = slot
                break
            if table_scores[bucket, slot] < least:
                least, target = table_scores[bucket, slot], slot
        table_keys[bucket, target] = key
        table_scores[bucket, target] += scores[i]
