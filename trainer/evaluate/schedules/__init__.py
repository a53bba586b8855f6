"""How training is fed: what is trained when, where its rows lie meanwhile, and which updates are left out."""

from __future__ import annotations

__all__: list[str] = []
