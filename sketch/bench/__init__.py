"""The benchmark of the sketch: streams, speed and recall."""

from __future__ import annotations

__all__: list[str] = []
