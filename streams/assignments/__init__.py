"""Following the hot set: which assignment records count, the table that they make, and subscriptions."""

from __future__ import annotations

__all__: list[str] = []
