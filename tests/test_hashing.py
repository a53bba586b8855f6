"""The hashes that other programs must reproduce: golden vectors for every body, and what each hash promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from sketch.changes import HOT, WARM
from sketch.hashing import entry_digest, mix64, mix64_array, shard_of, table_digest, unmix64

_U64 = st.integers(0, (1 << 64) - 1)
_MASK = (1 << 64) - 1
_NO_ROW = (1 << 32) - 1

# key, mix64, shard of 1, 4, 7 and 1000, entry digest as warm, entry digest as hot in row 123; some keys over 2^63
GOLDEN = [
    (0x0000000000000000, 0x0000000000000000, (0, 2, 3, 504), 0x49CCE61F1193AB4D, 0x3C0CBDBF5A32E2CB),
    (0x0000000000000001, 0xB456BCFC34C2CB2C, (0, 3, 5, 781), 0xDFBCB9375E2AA447, 0x7875097EF13CADA1),
    (0x0E0000007E0CCCCF, 0xF406EF8563189227, (0, 3, 5, 832), 0x4CE4645858335A07, 0xE56E5010B56AF92F),
    (0x1A00000068FD1E64, 0x12C0509F22444893, (0, 3, 6, 860), 0x84C751A01D5041E8, 0x6F7C244D8C24FC5E),
    (0x8000000000000000, 0x8F780810AF31A493, (0, 1, 3, 499), 0xBEAFD6631B9088EC, 0x43FC71312D419EE8),
    (0x80FFFFFFFFFFFFFF, 0x7554880E56E33BFE, (0, 0, 1, 168), 0x550B43271FD8327A, 0xD75C3138C3F47624),
    (0xFFFFFFFFFFFFFFFF, 0x64B5720B4B825F21, (0, 2, 4, 687), 0xDBEF1AB7B2BF8DF0, 0x7C91F1A939C49B41),
]


def _mix64(word: int) -> int:
    """The finalizer of MurmurHash3 as its author writes it."""
    word = (word ^ word >> 33) * 0xFF51AFD7ED558CCD & _MASK
    word = (word ^ word >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return word ^ word >> 33


@njit
def _compiled(words, mixed, unmixed, warm, hot):
    for i in range(words.shape[0]):
        mixed[i], unmixed[i] = mix64(words[i]), unmix64(mix64(words[i]))
        warm[i] = entry_digest(words[i], np.uint64(WARM), np.uint64(_NO_ROW))
        hot[i] = entry_digest(words[i], np.uint64(HOT), np.uint64(123))


def _run_compiled(words: list[int]) -> list[list[int]]:
    out = np.empty((4, len(words)), np.uint64)
    _compiled(np.array(words, np.uint64), *out)
    return out.tolist()


@pytest.mark.parametrize(("key", "mixed", "shards", "warm", "hot"), GOLDEN)
def test_every_body_of_a_hash_gives_the_golden_vectors(key, mixed, shards, warm, hot):
    keys = np.array([key], np.uint64)
    assert _mix64(key) == mixed
    assert int(mix64_array(keys)[0]) == mixed
    assert _run_compiled([key]) == [[mixed], [key], [warm], [hot]]
    assert tuple(int(shard_of(keys, count)[0]) for count in (1, 4, 7, 1000)) == shards
    assert table_digest(keys, np.array([WARM], np.uint8), np.array([-1], np.int32)) == warm
    assert table_digest(keys, np.array([HOT], np.uint8), np.array([123], np.int32)) == hot


@given(st.lists(_U64, min_size=1, max_size=20))
def test_numba_numpy_and_python_agree_and_unmix64_takes_mix64_back(words):
    mixed, unmixed, _, _ = _run_compiled(words)
    assert mixed == mix64_array(np.array(words, np.uint64)).tolist() == [_mix64(word) for word in words]
    assert unmixed == words


@given(st.lists(_U64, min_size=1, max_size=20), st.integers(1, 1 << 20))
def test_shard_of_follows_its_formula_and_stays_in_range(words, num_shards):
    shards = shard_of(np.array(words, np.uint64), num_shards)
    assert shards.dtype == np.int64
    assert shards.tolist() == [(_mix64(word ^ 0x5348415244000001) >> 32) * num_shards >> 32 for word in words]
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


def _table(num_keys: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    keys = random.integers(1, 1 << 64, num_keys, np.uint64)
    tiers = random.integers(WARM, HOT + 1, num_keys).astype(np.uint8)
    rows = np.where(tiers == HOT, np.arange(num_keys), -1).astype(np.int32)
    return keys, tiers, rows


@given(st.integers(1, 40), st.integers(0, 99))
def test_the_digest_of_a_table_does_not_depend_on_the_order(num_keys, seed):
    columns = _table(num_keys, seed)
    order = np.random.default_rng(seed).permutation(num_keys)
    assert table_digest(*columns) == table_digest(*(column[order] for column in columns))


@given(st.integers(1, 40), st.integers(0, 99), st.data())
def test_the_digest_changes_with_any_key_tier_row_or_missing_entry(num_keys, seed, data):
    keys, tiers, rows = _table(num_keys, seed)
    place = data.draw(st.integers(0, num_keys - 1))
    digest = table_digest(keys, tiers, rows)
    other_keys, other_tiers, other_rows = keys.copy(), tiers.copy(), rows.copy()
    other_keys[place] ^= np.uint64(1 << data.draw(st.integers(0, 63)))
    other_tiers[place] = WARM + HOT - tiers[place]
    other_rows[place] += 1
    assert table_digest(other_keys, tiers, rows) != digest
    assert table_digest(keys, other_tiers, rows) != digest
    assert table_digest(keys, tiers, other_rows) != digest
    assert table_digest(*(np.delete(column, place) for column in (keys, tiers, rows))) != digest


def test_the_digest_of_an_empty_table_is_zero():
    assert table_digest(*_table(0, 0)) == 0
