"""CAFE+'s sketch: what the window admits, where the threshold settles, and which features then have rows."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.plus_sketch import PlusSketch
from trainer.evaluate.methods.registry import METHODS


def ones(features):
    return np.ones(len(features), np.float32)


def add(sketch, feature, score):
    return sketch.insert(np.array([feature]), np.array([score], np.float32))


def scores_of(sketch, features):
    return sketch.find(np.asarray(features))[1].tolist()


def high_threshold():
    """One main bucket and one of the window; no feature moves to the main bucket at once."""
    return PlusSketch(2, 4, growth=1.0, seed=0, threshold=100.0)


@pytest.mark.parametrize(("score", "admitted"), [(4.5, 0.0), (5.0, 5.0)])
def test_a_feature_that_leaves_the_window_is_admitted_only_with_a_score_of_five(score, admitted):
    sketch = high_threshold()
    add(sketch, 1, score)
    assert scores_of(sketch, [1]) == [0.0]
    for other in (2, 3, 4, 5):  # the window has one bucket of four slots
        add(sketch, other, 1.0)
    assert scores_of(sketch, [1]) == [admitted]


def test_the_window_forgets_what_was_used_longest_ago():
    sketch = high_threshold()
    for feature in (1, 2, 3, 4, 1, 5):  # 1 is used again, so 2 leaves
        add(sketch, feature, 4.0)
    for feature in (1, 2):
        add(sketch, feature, 93.0)  # 101 with the 8 of before, 93 without the 4
    assert scores_of(sketch, [1, 2]) == [101.0, 0.0]


def test_a_feature_over_the_threshold_gets_a_row_at_once():
    sketch = PlusSketch(2, 4, growth=1.0, seed=0)
    promoted, rows = add(sketch, 1, 1.5)
    assert promoted.tolist() == [0]
    assert sketch.find(np.array([1]))[0].tolist() == rows.tolist()


def test_a_slot_with_a_row_is_never_replaced():
    sketch = PlusSketch(2, 4, growth=1.0, seed=0)
    for feature in range(20):
        add(sketch, feature, 2.0 + feature)
    assert (sketch.find(np.arange(4))[0] >= 0).all()
    assert sketch.num_demoted == 0


def test_the_threshold_becomes_the_score_of_the_last_row_and_the_highest_scores_have_the_rows():
    sketch = PlusSketch(100, 10, growth=1.0, seed=0)
    scores = np.arange(2, 22, dtype=np.float32)  # the first ten get the rows, the last ten score higher
    sketch.insert(np.arange(20), scores)
    assert (sketch.find(np.arange(20))[0] >= 0).tolist() == [True] * 10 + [False] * 10
    moved, rows = sketch.adjust()
    found = sketch.find(np.arange(20))[0]
    assert (found >= 0).tolist() == [False] * 10 + [True] * 10
    assert sketch.threshold == 12.0
    assert sorted(moved.tolist()) == list(range(10, 20))
    assert found[moved].tolist() == rows.tolist()
    assert sorted(rows.tolist()) == list(range(10))
    assert sketch.num_demoted == 10


def test_the_threshold_stays_while_few_features_exceed_it():
    sketch = PlusSketch(100, 10, growth=1.0, seed=0)
    sketch.insert(np.arange(12), np.full(12, 3, np.float32))
    assert len(sketch.adjust()[0]) == 0
    assert sketch.threshold == 1.0


@pytest.mark.parametrize("growth", [1.0, 2.0])
def test_an_old_score_loses_against_a_new_one_by_the_growth_even_after_the_scale_was_divided_out(growth):
    sketch = PlusSketch(100, 1, growth=growth, seed=0)
    add(sketch, 1, 3.0)
    for _ in range(20):  # 2 ** 20 exceeds the largest scale
        sketch.insert(np.array([2]), np.zeros(1, np.float32))
    add(sketch, 3, 2.0)
    sketch.adjust()
    assert (sketch.find(np.array([1]))[0] >= 0) == (growth == 1.0)


def test_the_bytes_are_those_of_the_planned_slots():
    sketch = PlusSketch(40, 7, growth=1.0, seed=0)
    assert sketch.nbytes == {"slots": 40 * 4 * 12, "free": 7 * 4}


@pytest.mark.parametrize("name", ["cafe", "cafe-ml", "cafe-plus", "cafe-bytes"])
@pytest.mark.parametrize("unique_share", [0.5, 0.9, 0.05])
def test_an_infeasible_budget_is_reported_with_the_fewest_bytes_that_suffice(name, unique_share):
    knobs = {**METHODS[name].default, "unique_share": unique_share}
    brief = Brief(budget_bytes=100, dim=16, field_sizes=(50, 60, 70), knobs=knobs)
    refused = METHODS[name].build(brief)
    assert isinstance(refused, Infeasible)
    assert refused.reason.endswith("bytes, got 100")
    (least,) = (int(word) for word in re.findall(r"need (\d+) bytes", refused.reason))
    for too_few in (0, 1):
        method = METHODS[name].build(replace(brief, budget_bytes=least - too_few))
        assert isinstance(method, Infeasible) == bool(too_few)
