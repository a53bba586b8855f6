"""Starting our own processes: children that die with their parent, and the ends of their logs."""

from __future__ import annotations

__all__: list[str] = []
