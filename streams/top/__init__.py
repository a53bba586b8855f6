"""What `hotstream top` shows of a running system, and how."""

from __future__ import annotations

__all__: list[str] = []
