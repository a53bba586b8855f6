"""Kafka clients, and everything built on them; other rooms receive a client and never create one."""

from __future__ import annotations

__all__: list[str] = []
