"""`FeatureNames`: the printed form of keys, learned from the records that were read; a tombstone has only its key."""

from __future__ import annotations

from dataclasses import replace

from streams.keys import MISSING, PAYLOAD_BITS
from streams.records import Assignment

__all__ = ["FeatureNames"]

_TOKEN_DIGITS = {"~": 14}  # of a hashed payload; a token of a field of kind `hex32` has 8


class FeatureNames:
    """Learns the name and the kind of each field from the features of hot records.

    Memory: one entry a field, at most 255.

    >>> names = FeatureNames()
    >>> names.name(0x0E0000007E0CCCCF)
    '0e0000007e0ccccf'
    >>> hot = Assignment(key=0x0E000000DEADBEEF, tier="hot", shard=0, epoch=1, seq=1, row=0, feature="C14:deadbeef")
    >>> names.completed(hot).feature, names.name(0x0E0000007E0CCCCF), names.name(0x0EFFFFFFFFFFFFFF)
    ('C14:deadbeef', 'C14:7e0ccccf', 'C14:missing')
    """

    def __init__(self) -> None:
        self._fields: dict[int, str] = {}
        self._marks: dict[int, str] = {}

    def completed(self, change: Assignment) -> Assignment:
        """The change with a feature; a hot one has its own, which is learned."""
        if change.feature is None:
            return replace(change, feature=self.name(change.key))
        number = change.key >> PAYLOAD_BITS
        if number not in self._marks:
            self._learn(number, change.feature)
        return change

    def _learn(self, number: int, feature: str) -> None:
        name, _, token = feature.partition(":")
        self._fields[number] = name
        if token != "missing":
            self._marks[number] = "~" if token.startswith("~") else ""

    def name(self, key: int) -> str:
        """The printed form of a key; its 16 hex digits while no hot record of its field was read."""
        number, payload = key >> PAYLOAD_BITS, key & MISSING
        if number in self._fields and payload == MISSING:
            return f"{self._fields[number]}:missing"
        if number not in self._marks:
            return f"{key:016x}"
        mark = self._marks[number]
        return f"{self._fields[number]}:{mark}{payload:0{_TOKEN_DIGITS.get(mark, 8)}x}"
