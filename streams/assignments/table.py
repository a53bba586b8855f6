"""HotTable: the hot set as a subscriber holds it. Pure: feed it records, from Kafka or from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sketch.changes import Changes
from sketch.hashing import shard_of
from sketch.tiertable import TierTable
from streams.keys import Keys
from streams.records import TIERS, Assignment, Digest

__all__ = ["HotTable", "ShardView"]


@dataclass
class _Late:
    """What a reader in a gap knows: which change each key and row has, as several may be out of their order.

    Two agents that had one shard for a moment left records twice in the log. Compaction may then remove the first of
    two copies and leave later changes, which have only one, in front of the second.

    Attributes:
        floor: up to this `seq` every change has been applied.
        keys: the newest change seen since, by key; `rows` by row.
    """

    floor: int
    keys: dict[int, int] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)

    def is_news(self, record: Assignment) -> bool:
        """Whether nothing newer was seen of the record's key, nor of its row."""
        is_news = record.seq > self.keys.get(record.key, self.floor)
        return is_news and (record.row is None or record.seq > self.rows.get(record.row, self.floor))

    def note(self, record: Assignment) -> None:
        """Takes in a change that was applied."""
        self.keys[record.key] = record.seq
        if record.row is not None:
            self.rows[record.row] = record.seq


@dataclass(kw_only=True)
class ShardView:
    """What a subscriber knows of one shard.

    Attributes:
        epoch: the newest configuration seen.
        seq: the newest change applied.
        table: tiers and rows.
        num_applied: changes applied; `num_stale` were dropped, because they or newer ones had been applied.
        verified_seq: the newest `seq` at which the agent's digest was found equal (0: an empty table needs no proof);
            -1 as soon as a digest speaks of a change that has not come.
        mismatches: digests that differed though no change was missing before them: a broken promise.
        complete_from: from this offset on nothing can be missing. A gap in `seq` means that compaction removed changes
            that later ones supersede; those later ones lie before the end of the topic as it was when the gap was read.
        late: what is known of each key until then; None where no gap is open.
    """

    epoch: int = 0
    seq: int = 0
    table: TierTable = field(default_factory=TierTable)
    num_applied: int = 0
    num_stale: int = 0
    verified_seq: int = 0
    mismatches: int = 0
    complete_from: int = 0
    late: _Late | None = None


class HotTable:
    """The materialised view of the assignments topic.

    - A change is applied only if its (epoch, seq) is newer than what its shard has; so reading a record twice, or a
      second agent's copy of it, changes nothing. Between a gap in `seq` and the end of the topic as it was when the gap
      was read, newer than what its key and its row have is enough (about 200 bytes a key until then).
    - A newer epoch begins with an empty shard.
    - At a digest for the `seq` at which a shard stands, the table is compared with the agent's. Equal is proof. After
      compaction a new reader has gaps until it has read as far as the topic went; before that point a digest that
      differs proves nothing and is passed over.

    Args:
        num_shards: partitions of the topic.

    Attributes:
        shards: what is known of each shard.
        max_hot: the most hot features that there ever were, after any one change.
    """

    def __init__(self, num_shards: int) -> None:
        self.shards = [ShardView() for _ in range(num_shards)]
        self.max_hot = 0

    def apply(self, record: Assignment | Digest, *, offset: int = 0, end_offset: int | None = None) -> bool:
        """Takes in one record; returns whether it changed the table.

        Args:
            record: a change or a digest.
            offset: its offset.
            end_offset: the end of its partition as it was when it was fetched; None: nothing was compacted away.
        """
        view = self.shards[record.shard]
        if isinstance(record, Digest):
            self._compare(view, record, offset)
            return False
        if view.late is not None and offset >= view.complete_from:
            view.late = None
        if not self._follows(view, record, end_offset):
            view.num_stale += 1
            return False
        if view.late is not None:
            view.late.note(record)
        view.table.apply(
            Changes(
                np.array([record.key], np.uint64),
                np.array([TIERS.index(record.tier)], np.uint8),
                np.array([-1 if record.row is None else record.row], np.int32),
                np.zeros(1, np.float32),
            )
        )
        view.num_applied += 1
        if record.tier == "hot":
            self.max_hot = max(self.max_hot, self.num_hot)
        return True

    @staticmethod
    def _follows(view: ShardView, record: Assignment, end_offset: int | None) -> bool:
        """Whether a change is to be applied; if it is its shard's newest, the view stands there from here on."""
        if (record.epoch, record.seq) <= (view.epoch, view.seq):
            return view.late is not None and record.epoch == view.epoch and view.late.is_news(record)
        if record.seq != view.seq + 1 and end_offset is not None:
            view.complete_from = end_offset
            view.late = view.late or _Late(view.seq)
        if record.epoch > view.epoch and view.epoch:
            view.table.clear()
            view.late = view.late and _Late(view.late.floor)
        view.epoch, view.seq = record.epoch, record.seq
        return True

    @staticmethod
    def _compare(view: ShardView, digest: Digest, offset: int) -> None:
        if (digest.epoch, digest.seq) > (view.epoch, view.seq):
            view.verified_seq = -1
        if (digest.epoch, digest.seq) != (view.epoch, view.seq):
            return
        if (digest.digest, digest.hot, digest.warm) == (view.table.digest, view.table.num_hot, view.table.num_warm):
            view.verified_seq = view.seq
        elif offset + 1 >= view.complete_from:
            view.mismatches += 1

    def lookup(self, keys: Keys) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Tiers (0 cold, 1 warm, 2 hot; uint8) and unique rows (-1 unless hot; int32) of keys of any shape."""
        keys = np.asarray(keys, np.uint64)
        flat = keys.reshape(-1)
        tiers, rows = np.zeros(flat.shape, np.uint8), np.full(flat.shape, -1, np.int32)
        shards = shard_of(flat, len(self.shards))
        for number, view in enumerate(self.shards):
            mine = shards == number
            tiers[mine], rows[mine] = view.table.lookup(flat[mine])
        return tiers.reshape(keys.shape), rows.reshape(keys.shape)

    def items(self) -> Iterator[tuple[int, str, int | None]]:
        """All hot and warm features: key, tier, row."""
        for view in self.shards:
            for key, tier, row in zip(*(column.tolist() for column in view.table.items()), strict=True):
                yield key, TIERS[tier], row if row >= 0 else None

    @property
    def num_hot(self) -> int:
        """Hot features."""
        return sum(view.table.num_hot for view in self.shards)

    @property
    def num_warm(self) -> int:
        """Warm features."""
        return sum(view.table.num_warm for view in self.shards)

    @property
    def is_verified(self) -> bool:
        """Whether every shard, as it stands, was found equal to its agent's table, and none ever differed."""
        return all(view.seq == view.verified_seq and not view.mismatches for view in self.shards)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HotTable):
            return NotImplemented
        return sorted(self.items()) == sorted(other.items())

    __hash__ = None  # type: ignore[assignment]
