"""The speed of lookups in a served model, in process."""

from __future__ import annotations

__all__: list[str] = []
