"""What the numbers of a row are stored as: float32, bfloat16, or int8 with a scale a row; trained in that format."""

from __future__ import annotations

__all__: list[str] = []
