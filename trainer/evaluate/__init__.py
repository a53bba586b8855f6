"""The comparison: trains every compression method on the same rows within the same bytes, without a broker."""

from __future__ import annotations

__all__: list[str] = []
