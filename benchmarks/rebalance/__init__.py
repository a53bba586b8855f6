"""How soon agents take over shards: at a start with large shards, and from one agent to three and back under load."""

from __future__ import annotations

__all__: list[str] = []
