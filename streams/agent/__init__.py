"""The sketch agent: the rules of a shard, and the Faust worker that applies them."""

from __future__ import annotations

__all__: list[str] = []
