"""Parts of the command line that several commands use: Kafka options, reports, progress, signals, lazy groups."""

from __future__ import annotations

__all__: list[str] = []
