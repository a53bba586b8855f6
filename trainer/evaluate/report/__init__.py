"""What an evaluation leaves behind: tables, pictures, and files of results."""

from __future__ import annotations

__all__: list[str] = []
