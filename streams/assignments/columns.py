"""The records of one fetch from one partition, as objects and as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from sketch.changes import NO_ROW, Changes
from sketch.hashing import Keys
from streams.records import Assignment, Claim, Digest

__all__ = ["Columns", "Fetch", "Record"]

Record = Assignment | Digest | Claim


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """Records of one partition, in the order of the log.

    Args:
        partition: the partition of the records.
        records: the decoded records, without bad ones and other kinds.
        offsets: their offsets, ascending; may be omitted together with `end_offset`.
        end_offset: the end of the partition at the time of the fetch; None if the topic was never compacted.

    Raises:
        ValueError: `end_offset` is given, and the offsets are not one for each record.
    """

    partition: int
    records: Sequence[Record]
    offsets: Sequence[int] = ()
    end_offset: int | None = None

    def __post_init__(self) -> None:
        if len(self.offsets) != len(self.records) and (self.offsets or self.end_offset is not None):
            raise ValueError(f"offsets: got {len(self.offsets)} for {len(self.records)} records, expected one each")

    @property
    def log_end(self) -> int | None:
        """The end of the partition; it lies after the last record even if the broker reported an older end."""
        if self.end_offset is None or not self.offsets:
            return self.end_offset
        return max(self.end_offset, self.offsets[-1] + 1)


@dataclass(frozen=True)
class Columns:
    """K records of one fetch as arrays; a digest and a claim have key 0.

    Attributes:
        key: (K,) uint64; `row` (K,) int32, -1 for none; `score` (K,) float32.
        epoch: (K,) int64; `seq` (K,) int64; `offset` (K,) int64; `shard` (K,) int64.
        index: (K,) int64, the record's index in the fetch.
        generation: (K,) int64; `is_restated` (K,) bool.
    """

    key: Keys
    row: npt.NDArray[np.int32]
    score: npt.NDArray[np.float32]
    epoch: npt.NDArray[np.int64]
    seq: npt.NDArray[np.int64]
    shard: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    generation: npt.NDArray[np.int64]
    is_restated: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.key)

    def __getitem__(self, chosen: slice | npt.NDArray[Any]) -> Columns:
        """The records of a slice or of a (K,) mask."""
        return Columns(*(getattr(self, column.name)[chosen] for column in fields(self)))

    @classmethod
    def of(cls, fetch: Fetch) -> Columns:
        """The arrays of a fetch's records."""
        records = fetch.records
        changes = [record if isinstance(record, Assignment) else None for record in records]
        rows = [NO_ROW if change is None or change.row is None else change.row for change in changes]
        return cls(
            np.array([0 if change is None else change.key for change in changes], np.uint64),
            np.array(rows, np.int32),
            np.array([0.0 if change is None else change.score or 0.0 for change in changes], np.float32),
            np.array([record.epoch for record in records], np.int64),
            np.array([record.seq for record in records], np.int64),
            np.array([record.shard for record in records], np.int64),
            np.array(fetch.offsets or np.zeros(len(records)), np.int64),
            np.arange(len(records)),
            np.array([record.generation for record in records], np.int64),
            np.array([change is not None and change.is_restated for change in changes], np.bool_),
        )

    def to_changes(self) -> Changes:
        """The changes, in order."""
        return Changes(self.key, self.row, self.score)
