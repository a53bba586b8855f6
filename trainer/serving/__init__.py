"""The export of a trained model for serving."""

from __future__ import annotations

__all__: list[str] = []
