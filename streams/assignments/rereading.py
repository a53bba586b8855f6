"""Reads a partition again whose reader has lost a change, such as a tombstone that was deleted while it was away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sketch.changes import NO_ROW, Changes
from streams.assignments.columns import Fetch, Record
from streams.assignments.history import History
from streams.assignments.shard_view import ShardView
from streams.clients.partition_reader import PartitionLog
from streams.records import Assignment, decode_assignment

__all__ = ["Losses", "as_changes", "find_corrections", "read_again"]

Hot = dict[int, tuple[Assignment, Any]]  # key -> the change that made it hot, decoded and as Kafka's record


class Losses:
    """The partitions whose digests prove a loss, and which of them were read again.

    A partition is read again once. If its digest differs again, the log itself lacks a change, and only its writer can
    mend that.
    """

    def __init__(self) -> None:
        self._read = set[int]()

    def is_due(self, partition: int, *, differs: bool) -> bool:
        """Whether to read a partition again now, by its newest digest; if so, it counts as read again."""
        if not differs:
            self._read.discard(partition)
            return False
        is_new = partition not in self._read
        self._read.add(partition)
        return is_new


def read_again(
    log: PartitionLog, topic: str, partition: int, like: History, end: int | None = None
) -> tuple[ShardView, Hot, int]:
    """The state of a shard that a new reader has at the offset `end`, the newest change of each hot key, and `end`.

    Args:
        log: reads the topic.
        topic: its name.
        partition: the shard's partition.
        like: the history whose shards and bounds count.
        end: the offset to stop before; by default the present end.

    Raises:
        BrokerError: the broker does not answer.
        KafkaError: the broker refuses.
    """
    history, hot = like.begin_again(), Hot()
    begin, log_end = log.bounds(topic, partition)
    end = log_end if end is None else end
    for records in log.read_fetches(topic, partition, begin, end):
        known = [(decode_assignment(record.key, record.value, record.headers), record) for record in records]
        decoded = [(one, record) for one, record in known if isinstance(one, Record)]
        offsets = [record.offset for _, record in decoded]
        fetch = Fetch(partition=partition, records=[one for one, _ in decoded], offsets=offsets, end_offset=log_end)
        counts = history.take(fetch).counts
        hot.update(
            {one.key: (one, record) for count, (one, record) in zip(counts, decoded, strict=True)
             if count and isinstance(one, Assignment) and one.tier == "hot"}
        )  # fmt: skip
    return history.shards[partition], hot, end


def find_corrections(
    before: ShardView, after: ShardView, hot: Hot
) -> Iterator[tuple[int, tuple[Assignment, Any] | None]]:
    """The keys whose rows differ, each with the change that made it hot; None if it is cold. Cold ones come first."""
    old, new = _rows(before), _rows(after)
    yield from ((key, None) for key in old.keys() - new.keys())
    yield from ((key, hot[key]) for key, row in new.items() if old.get(key) != row)


def as_changes(corrections: Sequence[Assignment]) -> Changes:
    """The changes that bring another table from the state before to the one after.

    Each key becomes cold first, so that two keys can exchange their rows.
    """
    hot = [one for one in corrections if one.row is not None]
    key = [*(one.key for one in corrections), *(one.key for one in hot)]
    row = [*(NO_ROW for _ in corrections), *(one.row for one in hot)]
    score = [*(0.0 for _ in corrections), *(one.score or 0.0 for one in hot)]
    return Changes(np.array(key, np.uint64), np.array(row, np.int32), np.array(score, np.float32))


def _rows(view: ShardView) -> dict[int, int]:
    keys, rows = view.table.items()
    return dict(zip(keys.tolist(), rows.tolist(), strict=True))
