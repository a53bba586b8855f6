"""DriftDetector: which falls of the hot keys' share count as drift."""

from __future__ import annotations

import numpy as np

from sketch.drift import DriftDetector


def observe(detector: DriftDetector, shares: np.ndarray) -> list[int]:
    """The reviews at which the detector reports drift, as `HotSet` uses it."""
    drifted = []
    for review, share in enumerate(shares):
        if detector.observe(4096, round(4096 * share)):
            drifted.append(review)
            detector.restart()
    return drifted


def test_a_steady_share_is_no_drift():
    noise = np.random.default_rng(1).normal(0, 0.01, 3000)
    assert observe(DriftDetector(), 0.7 + noise) == []


def test_a_sudden_fall_is_noticed_within_a_few_reviews_and_soon_becomes_usual():
    noise = np.random.default_rng(2).normal(0, 0.01, 3000)
    drifted = observe(DriftDetector(), np.where(np.arange(3000) < 1500, 0.7, 0.5) + noise)
    assert 1500 <= drifted[0] < 1510
    assert drifted[-1] < 1550


def test_regular_dips_are_no_drift_once_they_are_usual():
    dips = np.where(np.arange(6000) % 60 < 30, 0.7, 0.6)
    drifted = observe(DriftDetector(), dips)
    assert max(drifted, default=0) < 600


def test_a_review_without_held_events_repeats_the_recent_share():
    detector = DriftDetector(recent=0.5, middle=0.5, usual=0.5)
    assert not detector.observe(0, 0)
    assert detector == DriftDetector(recent=0.5, middle=0.5, usual=0.5)
