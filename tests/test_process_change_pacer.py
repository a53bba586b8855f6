"""How many changes a trainer applies between two steps: as many as half a step pays for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.process.change_pacer import ChangePacer

SECONDS = st.floats(1e-6, 10)


def test_the_limit_settles_where_changes_take_half_a_step():
    pacer = ChangePacer()
    for _ in range(50):
        pacer.note_step(0.010)
        pacer.note_changes(pacer.limit, pacer.limit * 1e-5)
    assert pacer.limit == pytest.approx(500, abs=1)


def test_a_limit_at_most_doubles_and_falls_at_once():
    pacer = ChangePacer()
    pacer.note_step(1.0)
    first = pacer.limit
    pacer.note_changes(first, first * 1e-6)
    assert pacer.limit == 2 * first
    pacer.note_changes(100, 1.0)
    assert pacer.limit == 50
    pacer.note_changes(1, 1.0)
    assert pacer.limit == 16


def test_nothing_is_learned_from_no_changes_or_before_a_step():
    pacer = ChangePacer()
    first = pacer.limit
    pacer.note_changes(10, 100.0)
    pacer.note_step(1.0)
    pacer.note_changes(0, 100.0)
    assert pacer.limit == first


def test_one_slow_step_moves_the_limit_little():
    pacer = ChangePacer()
    for _ in range(50):
        pacer.note_step(0.010)
        pacer.note_changes(pacer.limit, pacer.limit * 1e-5)
    pacer.note_step(0.020)
    pacer.note_changes(pacer.limit, pacer.limit * 1e-5)
    assert 500 < pacer.limit <= 610


@given(st.lists(st.tuples(SECONDS, st.integers(0, 30_000), SECONDS), max_size=50))
def test_the_limit_is_always_between_16_and_20000(history):
    pacer = ChangePacer()
    for step_s, count, changes_s in history:
        before = pacer.limit
        pacer.note_step(step_s)
        pacer.note_changes(count, changes_s)
        assert 16 <= pacer.limit <= min(20_000, max(16, 2 * before))
