"""What the processes report of themselves, and what is measured from outside."""

from __future__ import annotations

__all__: list[str] = []
