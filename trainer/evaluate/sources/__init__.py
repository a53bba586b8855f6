"""Where an evaluation's rows come from: the generator, files, and the tokens of source code."""

from __future__ import annotations

__all__: list[str] = []
