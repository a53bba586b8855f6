"""Bisection: the interval halves at every step and keeps the point of change."""

from __future__ import annotations

import math

from streams.generator.bisection import bisect


def test_the_interval_halves_and_holds_the_point_of_change() -> None:
    low, high = bisect(lambda x: x * x < 2.0, 0.0, 2.0, num_steps=20)
    assert low < math.sqrt(2.0) <= high
    assert high - low == 2.0**-19


def test_without_steps_the_interval_is_unchanged() -> None:
    assert bisect(lambda _: True, 1.0, 3.0, num_steps=0) == (1.0, 3.0)
