"""Malformed records for every topic of a running pipeline, audited: `python -m benchmarks.poison`."""

from __future__ import annotations

__all__: list[str] = []
