"""The demo: all of hotstream as separate processes on one machine, watched, counted and checked."""

from __future__ import annotations

__all__: list[str] = []
