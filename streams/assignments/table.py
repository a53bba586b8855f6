"""`HotTable`: a subscriber's view of the hot set, without I/O: it takes records from Kafka or any other source."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sketch.hashing import shard_of
from streams.assignments.columns import Fetch, Record
from streams.assignments.history import History, Outcome
from streams.assignments.shard_view import ShardView
from streams.keys import Keys

__all__ = ["HotTable"]


class HotTable:
    """The materialised view of the assignments topic: the tables of a `History`, which decides which records count.

    Args:
        num_shards: partitions of the topic.
        is_whole: whether the records start at the beginning of the topic; otherwise digests prove nothing.

    Attributes:
        history: the state of each shard.
    """

    def __init__(self, num_shards: int, *, is_whole: bool = True) -> None:
        self.history = History(num_shards, is_whole=is_whole)

    def apply(self, record: Record, *, offset: int = 0, end_offset: int | None = None) -> bool:
        """Applies one record of its shard's partition; returns whether it changed the table.

        Args:
            record: a change or a digest.
            offset: its offset.
            end_offset: the end of its partition at the time of the fetch; None if the topic was never compacted.
        """
        fetch = Fetch(partition=record.shard, records=[record], offsets=[offset], end_offset=end_offset)
        return bool(self.take(fetch).counts[0])

    def take(self, fetch: Fetch) -> Outcome:
        """Applies the records of one fetch."""
        return self.history.take(fetch)

    @property
    def shards(self) -> list[ShardView]:
        """The state of each shard."""
        return self.history.shards

    @property
    def max_hot(self) -> int:
        """The largest number of hot features after any single change."""
        return self.history.max_hot

    def lookup(self, keys: Keys) -> npt.NDArray[np.int32]:
        """The unique rows (-1 of a cold key) of keys of any shape, in their shape."""
        keys = np.asarray(keys, np.uint64)
        flat = keys.reshape(-1)
        rows = np.empty(flat.shape, np.int32)
        shards = shard_of(flat, len(self.shards))
        for number, view in enumerate(self.shards):
            mine = shards == number
            rows[mine] = view.table.lookup(flat[mine])
        return rows.reshape(keys.shape)

    def items(self) -> Iterator[tuple[int, int]]:
        """Iterates over the hot features: key and unique row."""
        for view in self.shards:
            keys, rows = view.table.items()
            yield from zip(keys.tolist(), rows.tolist(), strict=True)

    @property
    def num_hot(self) -> int:
        """The number of hot features."""
        return self.history.num_hot

    @property
    def is_verified(self) -> bool:
        """Whether every shard's present table equals its agent's, and no digest ever differed."""
        return self.history.is_verified

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HotTable):
            return NotImplemented
        return sorted(self.items()) == sorted(other.items())

    __hash__ = None  # type: ignore[assignment]
