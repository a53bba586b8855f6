"""What a log asks for: its profile, and what each compression of its embedding costs in bytes, AUC, cores, traffic."""

from __future__ import annotations

__all__: list[str] = []
