"""The compression methods under comparison, all trained online within the same byte budget."""

from __future__ import annotations

__all__: list[str] = []
