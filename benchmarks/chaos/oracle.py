"""`Oracle`: what the agents must have written, computed in this process from the importance topic alone."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.records import Assignment, BadRecord, Encoded, decode_assignment, decode_importance, encode_digest

__all__ = ["Oracle"]


class Oracle:
    """One shard's records and its table at any `seq`.

    Args:
        number: the shard.
        config: the configuration of the agents.
        signals: the importance that they count.
        records: the records of the shard's importance, from the first one.

    Attributes:
        shard: the shard after all records.
        written: (seq, whether it is a digest) -> the record: key, value and headers.
        problems: records that cannot be counted.
    """

    def __init__(self, number: int, config: ShardConfig, signals: Sequence[str], records: Sequence[Any]) -> None:
        self.shard = Shard(number, config)
        self.written: dict[tuple[int, bool], Encoded] = {(0, True): encode_digest(self.shard.describe())}
        self.problems: list[str] = []
        self._rows: dict[int, tuple[list[int], list[int | None]]] = defaultdict(lambda: ([], []))
        for record in records:
            batch = decode_importance(record.value, record.headers)
            if isinstance(batch, BadRecord):
                self.problems.append(f"offset {record.offset}: {batch.reason}")
                self.shard.skip(record.offset)
            elif batch.source.signal not in signals:
                self.shard.skip(record.offset)
            else:
                self._count(record.offset, batch)

    def _count(self, offset: int, batch: Any) -> None:
        changes = self.shard.count(offset, batch)
        if isinstance(changes, BadRecord):
            self.problems.append(f"offset {offset}: {changes.reason}")
            self.shard.skip(offset)
            return
        for encoded in changes:
            known = decode_assignment(*encoded)
            is_digest = not isinstance(known, Assignment)
            self.written[known.seq, is_digest] = encoded  # type: ignore[union-attr]
            if isinstance(known, Assignment):
                seqs, rows = self._rows[known.key]
                seqs.append(known.seq)
                rows.append(known.row)

    def row_at(self, key: int, seq: int) -> int | None:
        """The row of a feature after the change `seq`; None if it is cold."""
        seqs, rows = self._rows.get(key, ([], []))
        index = bisect_right(seqs, seq)
        return rows[index - 1] if index else None
