"""The adaptive embedding: a router in front of stores of vectors, and the moves between them."""

from __future__ import annotations

__all__: list[str] = []
