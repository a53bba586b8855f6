"""Training as a process that may be killed at any moment: feeds, checkpoints, journal, outbox."""

from __future__ import annotations

__all__: list[str] = []
