"""The demo: runs all of hotstream as separate processes on one machine and audits the result."""

from __future__ import annotations

__all__: list[str] = []
