"""`RecallSample` against the exact recall of hot sets whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sketch import HotSet, HotSketch
from sketch.hashing import mix64_array
from sketch.recall_sample import RecallSample


def zipf_batches(seed: int, *, num_keys: int = 40_000, num_batches: int = 60) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    names = mix64_array(np.arange(1, num_keys + 1, dtype=np.uint64))
    shares = 1.0 / np.arange(1, num_keys + 1) ** 1.05
    drawn = rng.choice(num_keys, (num_batches, 4096), p=shares / shares.sum())
    return list(names[drawn])


def ones(keys: np.ndarray) -> np.ndarray:
    return np.ones(len(keys), np.float32)


@pytest.mark.parametrize("share", [1.0, 0.8, 0.25, 0.0])
@pytest.mark.parametrize("capacity", [40, 1000, 5000])
def test_the_estimate_is_near_the_share_of_the_best_features_that_is_hot(capacity: int, share: float) -> None:
    batches = zipf_batches(1)
    sample = RecallSample(capacity, half_life=math.inf)
    for number, batch in enumerate(batches):
        sample.add(batch, ones(batch), number)
    keys, counts = np.unique(np.concatenate(batches), return_counts=True)
    best = keys[np.argsort(-counts, kind="stable")[:capacity]]
    hot = np.random.default_rng(0).choice(best, int(share * capacity), replace=False)
    estimate = sample.estimate(lambda some: np.isin(some, hot), num_hot=len(hot))
    assert estimate is not None
    assert abs(estimate - share) <= 3.5 * math.sqrt(max(share * (1 - share), 0.02) / min(16, capacity))


def test_the_estimate_of_a_hot_set_is_near_its_exact_recall_with_decay() -> None:
    capacity, half_life = 1000, 50_000.0
    hot_set = HotSet(capacity, HotSketch(capacity), half_life_events=half_life)
    sample = RecallSample(capacity, half_life=half_life)
    exact: dict[int, float] = {}
    for number, batch in enumerate(zipf_batches(2) + zipf_batches(3)):
        moment = 4096.0 * (number + 1)
        hot_set.update(batch)
        sample.add(batch, ones(batch), moment)
        for key, count in zip(*np.unique(batch, return_counts=True), strict=True):
            exact[int(key)] = exact.get(int(key), 0.0) + float(count) * 2.0 ** (moment / half_life)
    hot = hot_set.table()[0]
    best = sorted(exact, key=lambda key: -exact[key])[:capacity]
    truth = float(np.isin(np.array(best, np.uint64), hot).mean())
    estimate = sample.estimate(lambda some: np.isin(some, hot), num_hot=len(hot))
    assert estimate is not None
    assert abs(estimate - truth) <= 3.5 * math.sqrt(truth * (1 - truth) / 31)


def test_a_sample_that_begins_in_the_middle_waits_for_a_half_life() -> None:
    sample = RecallSample(10, half_life=100.0, is_complete=False)
    keys = np.arange(5, dtype=np.uint64)
    everything = lambda some: np.ones(len(some), bool)  # noqa: E731
    assert sample.estimate(everything, num_hot=5) is None
    for moment in (50.0, 100.0, 149.0):
        sample.add(keys, ones(keys), moment)
    assert sample.estimate(everything, num_hot=5) is None
    sample.add(keys, ones(keys), 150.0)
    assert sample.estimate(everything, num_hot=5) == 1.0


def test_a_long_time_invalid_scores_and_many_features_do_no_harm() -> None:
    sample = RecallSample(10, half_life=1.0)
    sample.add(np.array([7], np.uint64), np.array([1e30], np.float32), 0.0)
    for number in range(4):
        some = np.arange(100 + 20_000 * number, 20_100 + 20_000 * number, dtype=np.uint64)
        sample.add(some, ones(some), 1000.0 * number)
        assert sample.estimate(lambda some: np.zeros(len(some), bool), num_hot=10) == 0.0
    sample.add(np.array([1, 2, 3, 4], np.uint64), np.array([math.nan, math.inf, -1.0, 5.0], np.float32), 3000.0)
    seen = np.empty(0, np.uint64)

    def note(some: np.ndarray) -> np.ndarray:
        nonlocal seen
        seen = some
        return some == 4

    assert sample.estimate(note, num_hot=1) == pytest.approx(0.1)
    assert not {1, 2, 3, 7} & set(seen.tolist())
    assert len(seen) <= 4096
