"""The sketch agent: a shard's rules, and the Faust worker around them."""

from __future__ import annotations

__all__: list[str] = []
