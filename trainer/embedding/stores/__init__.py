"""Stores of vectors: rows in several formats, and their kernels."""

from __future__ import annotations

__all__: list[str] = []
