"""Means over the seeds with their standard errors, and differences by seed, for every table of the comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = ["mean_and_error", "paired_difference"]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and its standard error, which is 0 for a single value."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return mean, 0.0
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)


def paired_difference(one: Mapping[int, float], other: Mapping[int, float]) -> tuple[float, float]:
    """Returns the mean of `one - other` over the seeds that both have, and the standard error of that mean.

    The cells of a seed share rows and initial weights of the model, so the difference has a smaller error than the two
    means.

    Raises:
        ValueError: the two have no seed in common.
    """
    differences = [value - other[seed] for seed, value in one.items() if seed in other]
    if not differences:
        raise ValueError(f"seeds: got {sorted(one)} and {sorted(other)}, expected at least one in common")
    return mean_and_error(differences)
