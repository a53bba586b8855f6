"""What a step costs with one rank, with several, and with one process without ranks."""

from __future__ import annotations

__all__: list[str] = []
