"""What `hotstream doctor` looks at: this installation, this machine, and the broker with its topics and processes."""

from __future__ import annotations

__all__: list[str] = []
