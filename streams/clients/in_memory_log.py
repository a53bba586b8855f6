"""The log of an `InMemoryBroker`, and the errors with which it fails on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from kafka.errors import KafkaConnectionError, KafkaError

__all__ = ["CrashError", "InterruptionError", "Partition", "Record"]


class CrashError(KafkaError):
    """The broker has failed on demand; every later call of a client opened before raises this again."""

    def __str__(self) -> str:
        return "the broker failed on demand"


class InterruptionError(KafkaConnectionError):
    """The connection was lost on demand during a request; the next request may succeed.

    Attributes:
        is_stored: whether the broker has stored the request's records.
    """

    def __init__(self, *, is_stored: bool) -> None:
        super().__init__("the connection was lost on demand")
        self.is_stored = is_stored


class Record(NamedTuple):
    """A stored record, with the attributes of kafka-python's `ConsumerRecord` that hotstream reads."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


@dataclass(kw_only=True)
class Partition:
    """A partition's log.

    Attributes:
        records: in the order of their offsets, which may have gaps.
        begin: the first offset of the log; compaction may have removed its record.
        end: the offset of the next record to be stored.
        last_batch: the offset of the first record of the last batch.
        open: the offsets of the records of each open transaction, by transactional id.
    """

    records: list[Record] = field(default_factory=list)
    begin: int = 0
    end: int = 0
    last_batch: int = 0
    open: dict[str, list[int]] = field(default_factory=dict)

    @property
    def stable_end(self) -> int:
        """The offset of the first record that is not decided yet; readers get the records before it."""
        return min((offsets[0] for offsets in self.open.values()), default=self.end)
