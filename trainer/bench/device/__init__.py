"""`bench trainer --device cuda`: a step against plain tables and against the memory bandwidth of the device."""

from __future__ import annotations

__all__: list[str] = []
