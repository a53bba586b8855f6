"""The hashes that other programs must reproduce: golden vectors for every body, and the guarantees of each hash."""

from __future__ import annotations

import numpy as np
import pytest
from digests import mix64 as plain_mix64
from digests import table_digest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from sketch.hashing import entry_digest, mix64, mix64_array, shard_of, unmix64

_U64 = st.integers(0, (1 << 64) - 1)

# key, mix64, shard of 1, 4, 7 and 1000, entry digest in row 0 and in row 123; some keys over 2^63
GOLDEN = [
    (0x0000000000000000, 0x0000000000000000, (0, 2, 3, 504), 0x3B63B137ABDBEA5C, 0x8F3DA9FB82D8B835),
    (0x0000000000000001, 0xB456BCFC34C2CB2C, (0, 3, 5, 781), 0x4F33450AF340E206, 0xD7045DE5070B4C86),
    (0x0E0000007E0CCCCF, 0xF406EF8563189227, (0, 3, 5, 832), 0xE7DC8C67F4835501, 0x7B7D3BE1F28365BB),
    (0x1A00000068FD1E64, 0x12C0509F22444893, (0, 3, 6, 860), 0x71FCAD1F31FDF8EF, 0xB1671F7D426EF572),
    (0x8000000000000000, 0x8F780810AF31A493, (0, 1, 3, 499), 0xBA462C2B231E1109, 0x556B6EE410A3AD00),
    (0x80FFFFFFFFFFFFFF, 0x7554880E56E33BFE, (0, 0, 1, 168), 0x482D1D57676FE278, 0x7183D5E2CE4A041F),
    (0xFFFFFFFFFFFFFFFF, 0x64B5720B4B825F21, (0, 2, 4, 687), 0xBED073EFD906CF13, 0x4E0ACDB84E64BFDB),
]


@njit
def _compiled(words, mixed, unmixed, in_row_0, in_row_123):
    for i in range(words.shape[0]):
        mixed[i], unmixed[i] = mix64(words[i]), unmix64(mix64(words[i]))
        in_row_0[i] = entry_digest(words[i], np.uint64(0))
        in_row_123[i] = entry_digest(words[i], np.uint64(123))


def _run_compiled(words: list[int]) -> list[list[int]]:
    out = np.empty((4, len(words)), np.uint64)
    _compiled(np.array(words, np.uint64), *out)
    return out.tolist()


@pytest.mark.parametrize(("key", "mixed", "shards", "in_row_0", "in_row_123"), GOLDEN)
def test_every_body_of_a_hash_gives_the_golden_vectors(key, mixed, shards, in_row_0, in_row_123):
    keys = np.array([key], np.uint64)
    assert plain_mix64(key) == mixed
    assert int(mix64_array(keys)[0]) == mixed
    assert _run_compiled([key]) == [[mixed], [key], [in_row_0], [in_row_123]]
    assert tuple(int(shard_of(keys, count)[0]) for count in (1, 4, 7, 1000)) == shards
    assert table_digest(keys, [0]) == in_row_0
    assert table_digest(keys, [123]) == in_row_123


@given(st.lists(_U64, min_size=1, max_size=20))
def test_numba_numpy_and_python_agree_and_unmix64_takes_mix64_back(words):
    mixed, unmixed, _, _ = _run_compiled(words)
    assert mixed == mix64_array(np.array(words, np.uint64)).tolist() == [plain_mix64(word) for word in words]
    assert unmixed == words


@given(st.lists(_U64, min_size=1, max_size=20), st.integers(1, 1 << 20))
def test_shard_of_follows_its_formula_and_stays_in_range(words, num_shards):
    shards = shard_of(np.array(words, np.uint64), num_shards)
    assert shards.dtype == np.int64
    assert shards.tolist() == [(plain_mix64(word ^ 0x5348415244000001) >> 32) * num_shards >> 32 for word in words]
    assert shards.min() >= 0
    assert shards.max() < num_shards


@pytest.mark.parametrize("num_shards", [2, 3, 16])
def test_consecutive_tokens_of_one_field_spread_evenly_over_the_shards(num_shards):
    keys = np.arange(160_000, dtype=np.uint64) | np.uint64(200 << 56)
    counts = np.bincount(shard_of(keys, num_shards), minlength=num_shards)
    expected = len(keys) / num_shards
    assert np.all(np.abs(counts - expected) < 5 * expected**0.5)


def test_arrays_of_any_shape_keep_their_shape():
    keys = np.arange(24, dtype=np.uint64).reshape(2, 3, 4)
    assert shard_of(keys, 5).shape == mix64_array(keys).shape == (2, 3, 4)
    assert shard_of(keys[:0], 5).shape == (0, 3, 4)
