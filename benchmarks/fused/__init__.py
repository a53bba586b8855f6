"""Checks and times the fused kernels on a GPU; `python -m benchmarks.fused`."""

from __future__ import annotations

__all__: list[str] = []
