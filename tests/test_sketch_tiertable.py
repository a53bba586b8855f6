"""TierTable against its plainest model: a dictionary, one change at a time."""

from __future__ import annotations

import numpy as np
from digests import table_digest
from hypothesis import given, settings
from hypothesis import strategies as st

from sketch.changes import COLD, HOT, WARM, Changes
from sketch.tiertable import TierTable

_CHANGE = st.tuples(st.integers(1, 12), st.sampled_from([COLD, WARM, HOT]), st.integers(0, 5))


def _changes(listed: list[tuple[int, int, int]]) -> Changes:
    return Changes(
        np.array([key << 56 | 7 for key, _, _ in listed], np.uint64),
        np.array([tier for _, tier, _ in listed], np.uint8),
        np.array([row if tier == HOT else -1 for _, tier, row in listed], np.int32),
        np.ones(len(listed), np.float32),
    )


def _model(listed: list[tuple[int, int, int]]) -> dict[int, tuple[int, int]]:
    table: dict[int, tuple[int, int]] = {}
    for key, tier, row in listed:
        table.pop(key, None)
        if tier == HOT:
            for owner in [owner for owner, entry in table.items() if entry == (HOT, row)]:
                del table[owner]
            table[key] = (HOT, row)
        elif tier == WARM:
            table[key] = (WARM, -1)
    return table


@settings(deadline=None)  # the first call compiles
@given(st.lists(_CHANGE, max_size=60), st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_changes_one_by_one_or_in_batches_leave_the_table_of_the_model(listed, sizes):
    table, start, turn = TierTable(), 0, 0
    while start < len(listed):
        table.apply(_changes(listed[start : start + sizes[turn % len(sizes)]]))
        start, turn = start + sizes[turn % len(sizes)], turn + 1
    keys, tiers, rows = table.items()
    got = {int(key) >> 56: (int(tier), int(row)) for key, tier, row in zip(keys, tiers, rows, strict=True)}
    assert got == _model(listed)
    assert table.digest == table_digest(keys, tiers, rows)
    assert (table.num_hot, table.num_warm) == (np.count_nonzero(tiers == HOT), np.count_nonzero(tiers == WARM))


def test_a_row_has_one_owner_at_most():
    table = TierTable()
    table.apply(_changes([(1, HOT, 3)]))
    table.apply(_changes([(2, HOT, 3)]))
    tiers, rows = table.lookup(np.array([1 << 56 | 7, 2 << 56 | 7], np.uint64))
    assert tiers.tolist() == [COLD, HOT]
    assert rows.tolist() == [-1, 3]


_ENTRY = st.tuples(st.integers(1, 1 << 62), st.sampled_from([WARM, HOT]))
_TABLE = st.lists(_ENTRY, min_size=1, max_size=40, unique_by=lambda entry: entry[0])


def _digest(entries: list[tuple[int, int, int]]) -> int:
    keys, tiers, rows = (list(column) for column in zip(*entries, strict=True)) if entries else ([], [], [])
    table = TierTable()
    scores = np.ones(len(entries), np.float32)
    table.apply(Changes(np.array(keys, np.uint64), np.array(tiers, np.uint8), np.array(rows, np.int32), scores))
    return table.digest


@given(_TABLE, st.randoms())
def test_the_digest_does_not_depend_on_the_order(listed, random):
    entries = [(key, tier, row if tier == HOT else -1) for row, (key, tier) in enumerate(listed)]
    shuffled = random.sample(entries, len(entries))
    assert _digest(entries) == _digest(shuffled)


@given(_TABLE, st.data())
def test_the_digest_changes_with_any_key_tier_row_or_missing_entry(listed, data):
    entries = [(key, tier, row if tier == HOT else -1) for row, (key, tier) in enumerate(listed)]
    at = data.draw(st.integers(0, len(entries) - 1))
    key, tier, row = entries[at]
    other_tier = (key, WARM, -1) if tier == HOT else (key, HOT, 100)
    for other in ([(key ^ 1 << 63, tier, row)], [other_tier], [(key, HOT, 101)], []):
        assert _digest([*entries[:at], *other, *entries[at + 1 :]]) != _digest(entries)


def test_the_digest_of_an_empty_table_is_zero():
    assert TierTable().digest == 0
