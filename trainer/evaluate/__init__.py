"""The comparison: every method of compression trained on the same rows under the same bytes, with no broker."""

from __future__ import annotations

__all__: list[str] = []
