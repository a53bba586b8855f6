"""What each format of compressed rows costs a trained model."""

from __future__ import annotations

__all__: list[str] = []
