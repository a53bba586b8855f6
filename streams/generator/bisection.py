"""Bisection: the interval around the point at which a monotone condition changes."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["bisect"]


def bisect(is_below: Callable[[float], bool], low: float, high: float, num_steps: int) -> tuple[float, float]:
    """Halves an interval `num_steps` times around the point at which a condition turns from true to false.

    Args:
        is_below: true left of the point and false right of it.
        low: the left end of the interval.
        high: the right end.
        num_steps: the number of halvings, each of which calls `is_below` once.
    """
    for _ in range(num_steps):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return low, high
