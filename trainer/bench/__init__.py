"""The benchmarks of the trainer's step and of the whole pipeline."""

from __future__ import annotations

__all__: list[str] = []
