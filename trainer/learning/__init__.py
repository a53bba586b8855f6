"""Models over the embedding, the training step, and prequential quality (AUC and log loss)."""

from __future__ import annotations

__all__: list[str] = []
