"""The model around the embedding: dense parts, a training step, and prequential quality."""

from __future__ import annotations

__all__: list[str] = []
