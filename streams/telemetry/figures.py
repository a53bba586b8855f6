"""`Figure`: one number of a process, under the name of a metric."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from streams.telemetry.latency import LatencyHistogram

__all__ = ["Figure"]

_NO_LABELS: Mapping[str, str] = MappingProxyType({})


class Figure(NamedTuple):
    """A number of a metric, or a histogram.

    Attributes:
        name: the name of the metric without `hotstream_`.
        value: the number; times in seconds. None leaves the figure out: it is not known.
        labels: label -> value.
    """

    name: str
    value: float | LatencyHistogram | None
    labels: Mapping[str, str] = _NO_LABELS
