"""`LogTail`: what a shard's assignments hold from an offset on, as its owner needs to know it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sketch.hashing import Keys
from sketch.tiertable import TierTable
from streams.assignments.columns import Fetch, Record
from streams.assignments.history import History
from streams.records import Assignment, BadRecord, Claim, Digest, decode_assignment

__all__ = ["LogTail", "differing_keys"]


class LogTail:
    """Reads a shard's records in order, and finds those that their owner did not write.

    A record is out of order if its generation is older than that of one before it: a process wrote it that had lost the
    shard. A malformed record may stand for its key, too, as compaction keeps the last record of each key.

    Args:
        shard: the shard.
        num_shards: the number of all shards.
        generation: the newest generation before the first record.
        is_whole: whether the records begin with the log, so that `table` becomes the table that it makes.

    Attributes:
        newest: the newest (epoch, seq) in order; (0, 0) if there is none.
        generation: the newest generation.
        suspects: the keys of records out of order or malformed; 0 for a digest.
        end: the offset after the last record; 0 if there is none.
    """

    def __init__(self, shard: int, num_shards: int, *, generation: int = 0, is_whole: bool = False) -> None:
        self.newest = (0, 0)
        self.generation = generation
        self.suspects: set[int] = set()
        self.end = 0
        self._shard = shard
        self._history = History(num_shards) if is_whole else None

    @property
    def table(self) -> TierTable | None:
        """The table that the records make; None unless they are whole."""
        return None if self._history is None else self._history.shards[self._shard].table

    def read(self, records: Sequence[Any]) -> None:
        """Reads the next records, of one fetch."""
        decoded = [decode_assignment(record.key, record.value, record.headers) for record in records]
        for record, known in zip(records, decoded, strict=True):
            self.end = record.offset + 1
            if isinstance(known, BadRecord):
                self._suspect(record.key)
            elif isinstance(known, Assignment | Digest | Claim) and known.shard == self._shard:
                self._note(known)
        if self._history is not None:
            self._follow(records, decoded)

    def _suspect(self, key: bytes | None) -> None:
        if key is not None and len(key) == 8:
            self.suspects.add(int.from_bytes(key, "big"))

    def _note(self, known: Assignment | Digest | Claim) -> None:
        if known.generation < self.generation:
            self.suspects.add(known.key if isinstance(known, Assignment) else 0)
            return
        self.generation = known.generation
        if not isinstance(known, Claim):
            self.newest = max(self.newest, (known.epoch, known.seq))

    def _follow(self, records: Sequence[Any], decoded: Sequence[Any]) -> None:
        pairs = [(record.offset, known) for record, known in zip(records, decoded, strict=True)]
        kept = [(offset, known) for offset, known in pairs if isinstance(known, Record)]
        assert self._history is not None  # noqa: S101  the caller has looked
        self._history.take(
            Fetch(
                partition=self._shard,
                records=[known for _, known in kept],
                offsets=[offset for offset, _ in kept],
                end_offset=self.end,
            )
        )


def differing_keys(ours: tuple[Keys, np.ndarray[Any, Any]], theirs: TierTable) -> set[int]:
    """The keys whose rows differ between our hot keys (with their rows) and the table that a log makes."""
    own = TierTable()
    own.load(*ours)
    keys, rows = theirs.items()
    lacking = ours[0][theirs.lookup(ours[0]) != ours[1]]
    wrong = keys[own.lookup(keys) != rows]
    return {*lacking.tolist(), *wrong.tolist()}
