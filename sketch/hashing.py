"""The hash constants of hotstream, and the hashes that the wire protocol and the tables share.

A hash has a numba body (for kernels), a numpy body (for whole arrays), or both; one test checks every body against the
same golden vectors, keys over 2^63 included. All arithmetic is modulo 2^64.

Other programs, such as a subscriber in another language, must reproduce these:

- `mix64`: the finalizer of MurmurHash3 (public domain, A. Appleby), an invertible map of 64-bit words;
- `shard_of(key) = (mix64(key ^ SHARD_SEED) >> 32) * num_shards >> 32`;
- `entry_digest(key, row)`: the share of one hot feature in its shard's digest.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["entry_digest", "mix64", "mix64_array", "shard_of", "unmix64"]

_MULTIPLIER_1 = np.uint64(0xFF51AFD7ED558CCD)
_MULTIPLIER_2 = np.uint64(0xC4CEB9FE1A85EC53)
# The inverses of the two multipliers modulo 2^64: mix64 loses nothing, so a hash can be turned back into its key.
_INVERSE_1 = np.uint64(pow(0xFF51AFD7ED558CCD, -1, 1 << 64))
_INVERSE_2 = np.uint64(pow(0xC4CEB9FE1A85EC53, -1, 1 << 64))
_SHIFT = np.uint64(33)
_HALF = np.uint64(32)
GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: its multiples spread a counter over the words
RANDOM_MULTIPLIER = np.uint64(0xD1342543DE82EF95)  # of a 64-bit LCG (Steele and Vigna, 2021)
SHARD_SEED = np.uint64(0x5348415244000001)  # "SHARD", 1
DIGEST_SEED = np.uint64(0x4447535400000001)  # "DGST", 1

Keys = npt.NDArray[np.uint64]


@njit(nogil=True, cache=True, inline="always")
def mix64(word: np.uint64) -> np.uint64:
    """The mixed word; invertible (see `unmix64`)."""
    word ^= word >> _SHIFT
    word *= _MULTIPLIER_1
    word ^= word >> _SHIFT
    word *= _MULTIPLIER_2
    return word ^ (word >> _SHIFT)


@njit(nogil=True, cache=True, inline="always")
def unmix64(word: np.uint64) -> np.uint64:
    """The word whose `mix64` is the given one (a xor-shift by more than 32 bits undoes itself)."""
    word ^= word >> _SHIFT
    word *= _INVERSE_2
    word ^= word >> _SHIFT
    word *= _INVERSE_1
    return word ^ (word >> _SHIFT)


def mix64_array(words: Keys) -> Keys:
    """`mix64` of every word of an array of any shape."""
    words = words ^ (words >> _SHIFT)
    words = words * _MULTIPLIER_1
    words ^= words >> _SHIFT
    words *= _MULTIPLIER_2
    words ^= words >> _SHIFT
    return words


def shard_of(keys: Keys, num_shards: int) -> npt.NDArray[np.int64]:
    """The shard of each key, which is its partition of `importance` and `assignments`: shape of `keys`, int64."""
    return ((mix64_array(keys ^ SHARD_SEED) >> _HALF) * np.uint64(num_shards) >> _HALF).astype(np.int64)


@njit(nogil=True, cache=True, inline="always")
def entry_digest(key: np.uint64, row: np.uint64) -> np.uint64:
    """The share of one hot key and its row in its shard's digest."""
    return mix64(mix64(key ^ DIGEST_SEED) ^ row)
