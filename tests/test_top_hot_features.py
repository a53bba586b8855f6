"""`HotFeatures` agrees with a plain dictionary that is sorted at every question."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from streams.records import Assignment
from streams.top.hot_features import HotFeatures, field_of

STEPS = st.lists(st.tuples(st.integers(0, 40), st.sampled_from([None, 0.0, 1.0, 2.0, 3.5, 9.0])), max_size=200)


def hot_change(key: int, score: float, seq: int) -> Assignment:
    feature = f"C{key % 3}:{key:08x}"
    return Assignment(key=key, tier="hot", shard=0, epoch=1, seq=seq, row=key, feature=feature, score=score)


@given(steps=STEPS, most=st.integers(0, 4))
def test_the_best_the_found_and_the_numbers_by_field_are_those_of_a_sorted_dictionary(steps, most):
    features, known = HotFeatures(least_kept=4), dict[int, Assignment]()
    for seq, (key, score) in enumerate(steps):
        was_hot = known.pop(key, None) is not None
        if score is None:
            assert features.drop(key) == was_hot
        else:
            known[key] = hot_change(key, score, seq)
            assert features.put(known[key], seq) == was_hot
        best = sorted(known.values(), key=lambda change: (-(change.score or 0.0), change.key))
        assert [change for change, _ in features.best(most)] == best[:most]
        found = [change for change in best if "c1:" in (change.feature or "").casefold()]
        assert [change for change, _ in features.best(most, "c1:")] == found[:most]
    counted = Counter(field_of(change.feature or "") for change in known.values())
    assert +features.num_by_field == counted
