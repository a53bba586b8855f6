"""The hashes of docs/protocol.md in plain Python, as another program would write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MASK_64 = (1 << 64) - 1


def mix64(word: int) -> int:
    """The finalizer of MurmurHash3 as its author writes it."""
    word = (word ^ word >> 33) * 0xFF51AFD7ED558CCD & MASK_64
    word = (word ^ word >> 33) * 0xC4CEB9FE1A85EC53 & MASK_64
    return word ^ word >> 33


def table_digest(keys: Iterable[Any], rows: Iterable[Any]) -> int:
    """The digest of a table of hot keys and their rows."""
    entries = zip(keys, rows, strict=True)
    return sum(mix64(mix64(int(key) ^ 0x4447535400000001) ^ int(row)) for key, row in entries) & MASK_64
