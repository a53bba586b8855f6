"""How soon a replica serves what was trained, and what publishing costs the trainer's step."""

from __future__ import annotations

__all__: list[str] = []
