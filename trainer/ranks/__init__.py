"""One model trained by several processes (ranks): each owns the rows of some shards, and all have the dense part."""

from __future__ import annotations

__all__: list[str] = []
