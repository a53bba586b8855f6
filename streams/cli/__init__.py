"""What the commands share: Kafka options, reports, signals, and groups that load their commands lazily."""

from __future__ import annotations

__all__: list[str] = []
