"""Ways to keep vectors: rows in several formats, and the loops over them."""

from __future__ import annotations

__all__: list[str] = []
