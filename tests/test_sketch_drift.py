"""Drift: which falls of the hot keys' share count as drift."""

from __future__ import annotations

import numpy as np

from sketch.drift import NUM_AVERAGES, has_drifted, restart


def observe(shares: np.ndarray) -> list[int]:
    """The reviews at which a drift is noticed, as `HotSet` uses it."""
    averages, drifted = np.zeros(NUM_AVERAGES), []
    for review, share in enumerate(shares):
        if has_drifted(averages, 4096, round(4096 * share)):
            drifted.append(review)
            restart(averages)
    return drifted


def test_a_steady_share_is_no_drift():
    noise = np.random.default_rng(1).normal(0, 0.01, 3000)
    assert observe(0.7 + noise) == []


def test_a_sudden_fall_is_noticed_within_a_few_reviews_and_soon_becomes_usual():
    noise = np.random.default_rng(2).normal(0, 0.01, 3000)
    drifted = observe(np.where(np.arange(3000) < 1500, 0.7, 0.5) + noise)
    assert 1500 <= drifted[0] < 1510
    assert drifted[-1] < 1550


def test_regular_dips_are_no_drift_once_they_are_usual():
    dips = np.where(np.arange(6000) % 60 < 30, 0.7, 0.6)
    drifted = observe(dips)
    assert max(drifted, default=0) < 600


def test_a_review_without_held_events_repeats_the_recent_share():
    averages = np.array([0.5, 0.5, 0.5, 0.0])
    assert not has_drifted(averages, 0, 0)
    assert averages.tolist() == [0.5, 0.5, 0.5, 0.0]
