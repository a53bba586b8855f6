"""Rows of a trained model in fewer bytes, for serving; without torch."""

from __future__ import annotations

__all__: list[str] = []
