"""What `hotstream dashboard` serves: a page that follows the topics live, and reads the past on demand."""

from __future__ import annotations

__all__: list[str] = []
