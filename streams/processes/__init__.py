"""Child processes: start them, let them die with their parent, and read the ends of their logs."""

from __future__ import annotations

__all__: list[str] = []
