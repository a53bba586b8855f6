"""The adaptive embedding: a router, the stores of vectors behind it, and migrations between the stores."""

from __future__ import annotations

__all__: list[str] = []
