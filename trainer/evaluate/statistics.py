"""The mean of a metric over the seeds and its standard error, for every table of the comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["mean_and_error"]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and its standard error, which is 0 for a single value."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return mean, 0.0
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)
