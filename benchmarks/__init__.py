"""Measurements and campaigns that need more than one process; run them from the root of the repository."""

from __future__ import annotations

__all__: list[str] = []
