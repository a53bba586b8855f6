"""Everything that talks to a broker: clients are made here only, and handed to whoever needs one."""

from __future__ import annotations

__all__: list[str] = []
