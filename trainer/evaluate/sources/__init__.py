"""Sources of an evaluation's rows: the generator, click logs, and the tokens of source code."""

from __future__ import annotations

__all__: list[str] = []
