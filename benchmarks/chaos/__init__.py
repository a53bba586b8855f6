"""Faults for whole processes: what the network and the machine do to a running pipeline."""

from __future__ import annotations

__all__: list[str] = []
