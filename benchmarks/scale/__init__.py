"""What a large system needs: a small simulation and measured figures, multiplied up."""

from __future__ import annotations

__all__: list[str] = []
