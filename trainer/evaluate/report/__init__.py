"""The report of an evaluation: Markdown tables and plots."""

from __future__ import annotations

__all__: list[str] = []
