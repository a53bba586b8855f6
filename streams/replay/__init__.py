"""Replays click logs into the clicks topic: sending, pacing, and resuming after a crash."""

from __future__ import annotations

__all__: list[str] = []
