"""TierTable against its plainest model: a dictionary, one change at a time."""

from __future__ import annotations

import numpy as np
from digests import table_digest
from hypothesis import given, settings
from hypothesis import strategies as st

from sketch.changes import NO_ROW, Changes
from sketch.tiertable import TierTable

_CHANGE = st.tuples(st.integers(1, 12), st.sampled_from([NO_ROW, *range(6)]))


def _changes(listed: list[tuple[int, int]]) -> Changes:
    return Changes(
        np.array([key << 56 | 7 for key, _ in listed], np.uint64),
        np.array([row for _, row in listed], np.int32),
        np.ones(len(listed), np.float32),
    )


def _model(listed: list[tuple[int, int]]) -> dict[int, int]:
    table: dict[int, int] = {}
    for key, row in listed:
        table = {other: taken for other, taken in table.items() if other != key and taken != row}
        if row != NO_ROW:
            table[key] = row
    return table


@settings(deadline=None)  # the first call compiles
@given(st.lists(_CHANGE, max_size=60), st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_changes_one_by_one_or_in_batches_leave_the_table_of_the_model(listed, sizes):
    table, start, turn = TierTable(), 0, 0
    while start < len(listed):
        size = sizes[turn % len(sizes)]
        table.apply(_changes(listed[start : start + size]))
        assert table.peak_hot == max(
            len(_model(listed[:stop])) for stop in range(start, min(start + size, len(listed)) + 1)
        )
        start, turn = start + size, turn + 1
    keys, rows = table.items()
    expected = _model(listed)
    assert {int(key) >> 56: int(row) for key, row in zip(keys, rows, strict=True)} == expected
    assert table.digest == table_digest(keys, rows)
    assert table.num_hot == len(expected)
    every = np.arange(1, 13, dtype=np.uint64) << np.uint64(56) | np.uint64(7)
    assert table.lookup(every).tolist() == [expected.get(key, NO_ROW) for key in range(1, 13)]


def test_a_row_has_one_owner_at_most():
    table = TierTable()
    table.apply(_changes([(1, 3)]))
    table.apply(_changes([(2, 3)]))
    assert table.lookup(np.array([1 << 56 | 7, 2 << 56 | 7], np.uint64)).tolist() == [NO_ROW, 3]


_TABLE = st.lists(st.integers(1, 1 << 62), min_size=1, max_size=40, unique=True)  # each key in the row of its index


def _digest(entries: list[tuple[int, int]]) -> int:
    keys, rows = (list(column) for column in zip(*entries, strict=True)) if entries else ([], [])
    table = TierTable()
    table.apply(Changes(np.array(keys, np.uint64), np.array(rows, np.int32), np.ones(len(entries), np.float32)))
    return table.digest


@given(_TABLE, st.randoms())
def test_the_digest_does_not_depend_on_the_order(keys, random):
    entries = [(key, row) for row, key in enumerate(keys)]
    assert _digest(entries) == _digest(random.sample(entries, len(entries)))


@given(_TABLE, st.data())
def test_the_digest_changes_with_any_key_row_or_missing_entry(keys, data):
    entries = [(key, row) for row, key in enumerate(keys)]
    at = data.draw(st.integers(0, len(entries) - 1))
    key, row = entries[at]
    for other in ([(key ^ 1 << 63, row)], [(key, 101)], []):
        assert _digest([*entries[:at], *other, *entries[at + 1 :]]) != _digest(entries)


def test_the_digest_of_an_empty_table_is_zero():
    assert TierTable().digest == 0
