"""Measurements: latency histograms, and the state of a running system from its topics."""

from __future__ import annotations

__all__: list[str] = []
