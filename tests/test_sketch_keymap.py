"""KeyMap against its plainest model, a dictionary; and its load."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sketch.hashing import mix64_array
from sketch.keymap import ABSENT, SLOTS, KeyMap, find_slot, num_buckets_for

_OPERATION = st.tuples(st.booleans(), st.lists(st.tuples(st.integers(1, 300), st.integers(-1, 50)), max_size=90))


def keys_of(numbers: list[int]) -> np.ndarray:
    """Keys over all 64 bits, above 2^63 too."""
    return mix64_array(np.array(numbers, np.uint64))


@settings(max_examples=80)
@given(st.lists(_OPERATION, max_size=8), st.sampled_from([0, 60, 300]))
def test_any_puts_and_removals_leave_the_dictionary(operations, capacity):
    table, model = KeyMap(capacity), {}
    shadow = (table.keys.copy(), table.values.copy())
    for is_put, pairs in operations:
        keys, values = keys_of([key for key, _ in pairs]), np.array([value for _, value in pairs], np.int32)
        if is_put:
            slots = table.put(keys, values)
            model.update(zip(keys.tolist(), values.tolist(), strict=True))
        else:
            slots = table.remove(keys)
            for key in keys.tolist():
                model.pop(key, None)
        if slots is None:
            shadow = (table.keys.copy(), table.values.copy())
        else:
            for mine, copy in zip((table.keys, table.values), shadow, strict=True):
                copy.reshape(-1)[slots] = mine.reshape(-1)[slots]
        got_keys, got_values = table.items()
        assert dict(zip(got_keys.tolist(), got_values.tolist(), strict=True)) == model
        assert len(table) == len(model)
        np.testing.assert_array_equal(shadow[0], table.keys, "the slots that were reported as written")
        everything = keys_of(list(range(301)))
        assert table.get(everything).tolist() == [model.get(key, ABSENT) for key in everything.tolist()]


@pytest.mark.parametrize("num_keys", [1, 57, 58, 1_000, 40_000])
def test_a_map_holds_the_keys_it_was_made_for_without_growing(num_keys):
    for seed in range(5):
        table = KeyMap(num_keys)
        before = table.nbytes
        keys = mix64_array(np.arange(1, num_keys + 1, dtype=np.uint64) + np.uint64(seed << 40))
        table.put(keys, np.arange(num_keys, dtype=np.int32))
        assert table.nbytes == before == num_buckets_for(num_keys) * SLOTS * 12
        np.testing.assert_array_equal(table.get(keys), np.arange(num_keys))
    assert num_keys < 1_000 or len(table) > 0.89 * table.keys.size


def test_a_growing_map_stays_at_least_two_thirds_full():
    table = KeyMap()
    for start in range(1, 200_000, 1_000):
        table.put(keys_of(list(range(start, start + 1_000))), np.zeros(1_000, np.int32))
        assert len(table) < 100 or len(table) > 0.66 * table.keys.size
    table.remove(keys_of(list(range(1, 200_001))))
    assert len(table) == 0


def test_changes_in_a_full_map_need_no_growth():
    table = KeyMap(20_000)
    before, rng = table.nbytes, np.random.default_rng(0)
    held = keys_of(list(range(1, 20_001)))
    table.put(held, np.zeros(20_000, np.int32))
    for turn in range(60):
        leaving = rng.choice(20_000, 1_000, replace=False)
        table.remove(held[leaving])
        held[leaving] = keys_of((rng.integers(1, 1 << 40, 1_000) + (turn << 41)).tolist())
        table.put(held[leaving], np.zeros(1_000, np.int32))
    assert (table.nbytes, len(table)) == (before, 20_000)
    assert all(find_slot(table.keys, key) >= 0 for key in held[:100])


def test_key_zero_is_refused_and_never_found():
    table = KeyMap()
    with pytest.raises(ValueError, match="key 0 names no feature"):
        table.put(np.array([5, 0], np.uint64), np.array([1, 1], np.int32))
    assert table.get(np.array([0], np.uint64))[0] == ABSENT
