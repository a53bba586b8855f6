"""The training process, which may be killed at any moment: feeds, checkpoints, journal and outbox."""

from __future__ import annotations

__all__: list[str] = []
