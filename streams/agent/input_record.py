"""`InputRecord`: a record that an agent reads."""

from __future__ import annotations

from typing import NamedTuple

from streams.records import Headers

__all__ = ["InputRecord"]


class InputRecord(NamedTuple):
    """A record of the importance or clicks topic, independent of the Kafka client."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
