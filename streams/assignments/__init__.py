"""The hot set as its topic tells it: which records count, the table they make, and subscribing to it."""

from __future__ import annotations

__all__: list[str] = []
