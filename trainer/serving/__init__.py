"""What a trained model is served from."""

from __future__ import annotations

__all__: list[str] = []
