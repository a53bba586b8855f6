"""The whole pipeline at a steady rate for a long time: whether memory, handles, lag and latency stay as they are."""

from __future__ import annotations

__all__: list[str] = []
