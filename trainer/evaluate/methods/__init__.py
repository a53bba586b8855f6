"""Every method of compression, trained online under the same bytes."""

from __future__ import annotations

__all__: list[str] = []
