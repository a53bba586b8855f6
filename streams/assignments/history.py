"""Which assignment records count: the only implementation of the rule, used by subscribers and by the trainer.

`docs/protocol.md` ("The topic <prefix>.assignments", "Digests" and "Gaps") specifies the same rule in prose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sketch.changes import NO_ROW, Changes
from sketch.hashing import shard_of
from streams.assignments.columns import Columns, Fetch
from streams.assignments.gap import OpenGap
from streams.assignments.row_ranges import rows_of_shard
from streams.assignments.shard_view import ShardView
from streams.keys import FIELD_SHIFT, MAX_FIELDS, Keys
from streams.records import MAX_UNIQUE_ROWS, Claim, Digest, has_foreign_key

__all__ = ["History", "Outcome", "Verdict"]

Verdict = Literal["equal", "differs", "unproven", "stale", "ahead"]
Arrays = dict[str, npt.NDArray[Any]]
_COUNTERS = (
    "epoch", "seq", "generation", "num_applied", "num_stale", "num_refused", "verified_seq", "mismatches", "differs",
    "complete_from",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """The result of one fetch.

    Attributes:
        changes: the changes that another table must apply, in order, to stay equal; at a new epoch every key of the
            shard becomes cold first.
        counts: (K,) bool, whether each record of the fetch changed the table.
        refused: index in the fetch -> reason, for records of another shard.
        verdicts: index in the fetch -> verdict, for digests: `equal`; `differs`, which proves a loss; `unproven`: it
            differs inside a gap; `stale`; or `ahead` of the changes of a topic that was never compacted: not compared.
        forgotten: index in the fetch -> the keys that became cold because the record begins an epoch.
    """

    changes: Changes
    counts: npt.NDArray[np.bool_]
    refused: dict[int, str]
    verdicts: dict[int, Verdict]
    forgotten: dict[int, Keys]


class History:
    """The histories of the shards as far as they were read, and the tables that they make.

    - A record is refused if its shard, or the shard of its key, is not its partition's, or if its row or its field
      is over the bounds of the reader's model (`bound`).
    - A change counts only if its (epoch, seq) is newer than its shard's; so a record that is read again, or a second
      agent's copy of it, changes nothing. Between a gap in `seq` and the end that the partition had when the gap was
      read, it is enough that the change is newer than its key's and its row's.
    - A newer epoch begins with an empty shard, at its first change or digest.
    - A record of an older generation than one before it is dropped: a process wrote it that had lost the shard.
    - A restated record, of which the shard's owner knows that compaction removed the original, counts at the shard's
      own version, too, if it changes the table.
    - A digest of the shard's present (epoch, seq) or a newer one is compared with the table; if it is equal, the table
      is verified. A newer one shows a gap: the changes up to it were compacted, or were tombstones that were deleted.
      After compaction a new reader meets gaps until it reaches the end that the partition had; before that point a
      digest that differs proves nothing and is ignored.

    The result does not depend on how the log is split into fetches, except for the end offsets that they report.
    Memory: the tables, about 14 bytes a key and 8 a row. Cost of a fetch: O(K), in numpy but for late changes in a gap.

    Args:
        num_shards: partitions of the topic.
        is_whole: whether the records start at the beginning of the topic; otherwise digests prove nothing.

    Attributes:
        shards: the state of each shard.
        max_hot: the largest number of hot features after any single change.
    """

    def __init__(self, num_shards: int, *, is_whole: bool = True) -> None:
        self.is_whole = is_whole
        self._num_rows, self._num_fields, self._is_sliced = MAX_UNIQUE_ROWS, MAX_FIELDS, False
        self.shards = [ShardView() for _ in range(num_shards)]
        self.max_hot = 0

    def bound(self, *, num_rows: int, num_fields: int, is_sliced: bool = False) -> None:
        """Refuses from now on rows from `num_rows` and fields over `num_fields`: the model has no room for them.

        If it `is_sliced`, a shard has room for its own rows only (`rows_of_shard`).
        """
        self._num_rows, self._num_fields, self._is_sliced = num_rows, num_fields, is_sliced

    def begin_again(self) -> History:
        """A history of the same shards and bounds, with no record yet, from the beginning of the topic."""
        again = History(len(self.shards))
        again.bound(num_rows=self._num_rows, num_fields=self._num_fields, is_sliced=self._is_sliced)
        return again

    def correct(self, partition: int, changes: Changes, state: Mapping[str, int], end: int) -> None:
        """Makes a shard that of a reader which has read the topic again.

        Args:
            partition: the shard.
            changes: what makes its table that of the other reader.
            state: the attributes of the other reader's view.
            end: the offset that both have reached; no change before it is missing any more.
        """
        view = self.shards[partition]
        view.table.apply(changes)
        view.gap, view.complete_from = None, end
        for name, number in state.items():
            setattr(view, name, number)

    def take(self, fetch: Fetch) -> Outcome:
        """Applies the records of one fetch."""
        accepted, refused = self._accept(fetch)
        columns = _drop_fenced(self.shards[fetch.partition], accepted) if len(accepted) else accepted
        counts = np.zeros(len(fetch.records), np.bool_)
        parts: list[Changes] = []
        verdicts: dict[int, Verdict] = {}
        forgotten: dict[int, Keys] = {}
        for piece in self._pieces(columns, fetch.partition):
            view, first = self.shards[fetch.partition], int(piece.index[0])
            record = fetch.records[first]
            if isinstance(record, Claim):  # its generation is noted
                continue
            if isinstance(record, Digest):
                begun, changes = _announce(view, record), Changes.empty()
                _skip_to(view, record, int(piece.offset[0]), fetch.log_end)
                verdicts[first] = _compare(view, record, int(piece.offset[0])) if self.is_whole else "unproven"
            else:
                begun, changes = self._take_changes(view, piece, counts, fetch.log_end)
            if len(begun):
                forgotten[first] = begun.key
            parts += [begun, changes]
        return Outcome(Changes.concatenate(parts), counts, refused, verdicts, forgotten)

    def _accept(self, fetch: Fetch) -> tuple[Columns, dict[int, str]]:
        """The records of the partition's shard, and the reasons for refusing the others."""
        columns, partition, num_shards = Columns.of(fetch), fetch.partition, len(self.shards)
        is_ours = columns.shard == partition
        numbers = (columns.key >> FIELD_SHIFT).astype(np.int64)
        first, count = rows_of_shard(self._num_rows, num_shards, partition) if self._is_sliced else (0, self._num_rows)
        is_bounded = (columns.row < first + count) & (numbers <= self._num_fields)
        if first:
            is_bounded &= (columns.row >= first) | (columns.row < 0)
        if partition < num_shards and is_ours.all() and is_bounded.all():
            changed = columns.key[columns.key != 0]
            if not has_foreign_key(changed, partition, num_shards):  # nearly always
                return columns, {}
        owners = np.where(columns.key != 0, shard_of(columns.key, num_shards), columns.shard)
        is_ours &= (owners == partition) & (partition < num_shards)
        refused = {
            i: f"got a record of shard {columns.shard[i]} with a key of shard {owners[i]}, expected shard {partition}"
            for i in np.flatnonzero(~is_ours).tolist()
        }
        for i in np.flatnonzero(is_ours & ~is_bounded).tolist():
            refused[i] = (
                f"got row {columns.row[i]} and field {numbers[i]}, expected rows {first} to {first + count - 1} and "
                f"fields 1 to {self._num_fields}; start this process with the agent's --capacity and --schema"
            )
        is_ours &= is_bounded
        if partition < num_shards:
            self.shards[partition].num_refused += len(refused)
        return columns[is_ours], refused

    def _pieces(self, columns: Columns, partition: int) -> list[Columns]:
        """The records, split at digests, at new epochs, at the end of an open gap, and around restated ones."""
        if not len(columns):
            return []
        is_digest, epoch = columns.key == 0, columns.epoch
        is_behind = columns.offset >= self.shards[partition].complete_from
        is_cut = is_digest[1:] | is_digest[:-1]
        for mark in (epoch, is_behind, columns.is_restated):
            is_cut |= mark[1:] != mark[:-1]
        bounds = [0, *(np.flatnonzero(is_cut) + 1).tolist(), len(columns)]
        return [columns[begin:end] for begin, end in pairwise(bounds)]

    def _take_changes(
        self, view: ShardView, piece: Columns, counts: npt.NDArray[np.bool_], log_end: int | None
    ) -> tuple[Changes, Changes]:
        """Applies the changes that count, and marks them; returns what a new epoch makes cold, and these changes."""
        if view.gap is not None and piece.offset[0] >= view.complete_from:
            view.gap = None
        epoch = int(piece.epoch[0])
        if epoch < view.epoch:
            view.num_stale += len(piece)
            return Changes.empty(), Changes.empty()
        is_new, open_from = _follow(view, piece, log_end)
        forgotten = _begin_epoch(view, epoch) if epoch > view.epoch else Changes.empty()
        if view.gap is not None:
            view.gap.count(piece[open_from:], is_new[open_from:])
        view.seq = max(view.seq, int(piece.seq.max()))
        counts[piece.index] = is_new
        changes = piece[is_new].to_changes()
        view.num_applied += len(changes)
        view.num_stale += len(piece) - len(changes)
        others = self.num_hot - view.table.num_hot
        view.table.apply(changes)
        self.max_hot = max(self.max_hot, others + view.table.peak_hot)
        return forgotten, changes

    @property
    def num_hot(self) -> int:
        """The number of hot features."""
        return sum(view.table.num_hot for view in self.shards)

    @property
    def is_verified(self) -> bool:
        """Whether every shard's present table equals its agent's."""
        return all(view.seq == view.verified_seq and not view.differs for view in self.shards)

    @property
    def verified(self) -> bool | None:
        """Whether the table equals the agent's: False if the newest digest differed, None if not yet compared."""
        if any(view.differs for view in self.shards):
            return False
        return True if self.is_verified else None

    def describe(self) -> dict[str, bool | int | None]:
        """The verdict and its counts, for reports."""
        sums = {name: sum(getattr(view, name) for view in self.shards) for name in _COUNTERS}
        counts = {"applied": "num_applied", "stale": "num_stale", "refused": "num_refused", "mismatches": "mismatches"}
        return {"verified": self.verified, **{name: sums[counter] for name, counter in counts.items()}}

    def standings(self) -> dict[str, list[int]]:
        """[epoch, seq] of every shard with an applied change, for JSON."""
        return {str(number): [view.epoch, view.seq] for number, view in enumerate(self.shards) if view.seq}

    def to_state(self) -> dict[str, Any]:
        """The part of the state that JSON holds; `load` needs it."""
        shards = [
            {**{name: getattr(view, name) for name in _COUNTERS}, "floor": view.gap and view.gap.floor}
            for view in self.shards
        ]
        return {"shards": shards, "max_hot": self.max_hot}

    def to_arrays(self) -> Arrays:
        """Copies of the tables and open gaps; the keys are unsorted, as sorting would cost more than the copy."""
        arrays: Arrays = {}
        for number, view in enumerate(self.shards):
            keys, rows = view.table.unsorted_items()
            parts: Arrays = {"keys": keys, "rows": rows, **(view.gap.to_arrays() if view.gap else {})}
            arrays.update({f"{number}.{name}": array for name, array in parts.items()})
        return arrays

    def load(self, state: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restores the results of `to_state` and `to_arrays`; keys may be int64 with the same bits.

        Raises:
            ValueError: the state has another number of shards.
        """
        if len(state["shards"]) != len(self.shards):
            raise ValueError(f"state of {len(state['shards'])} shards, expected {len(self.shards)}")
        self.max_hot = int(state["max_hot"])
        for number, (view, known) in enumerate(zip(self.shards, state["shards"], strict=True)):
            for name in _COUNTERS:
                setattr(view, name, int(known[name]))
            mine = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{number}.")}
            view.table.load(mine["keys"].view(np.uint64), mine["rows"])
            view.gap = None if known["floor"] is None else OpenGap.load(int(known["floor"]), mine)


def _drop_fenced(view: ShardView, columns: Columns) -> Columns:
    """The records whose generation is not older than that of one before them; notes the newest generation."""
    newest = np.maximum.accumulate(np.concatenate([[view.generation], columns.generation]))
    view.generation = int(newest[-1])
    is_current = columns.generation >= newest[:-1]
    if is_current.all():  # nearly always
        return columns
    view.num_stale += int((~is_current & (columns.key != 0)).sum())
    return columns[is_current]


def _follow(view: ShardView, piece: Columns, log_end: int | None) -> tuple[npt.NDArray[np.bool_], int]:
    """(K,) whether each change is its shard's newest, and the index of the first one in an open gap; opens a gap.

    The changes are all restated, or none is. A change has the next `seq`; a restated one that of the shard's newest
    change, so after it no change up to this `seq` is missing but those that compaction removed.
    """
    begins_epoch, is_restated = int(piece.epoch[0]) > view.epoch, bool(piece.is_restated[0])
    step = 0 if is_restated else 1
    floor = int(piece.seq[0]) - step if begins_epoch else view.seq
    newest = np.maximum.accumulate(np.concatenate([[floor], piece.seq[:-1]]))  # before each record
    is_new = piece.seq >= newest + step
    is_jump = is_new & (piece.seq != newest + step)
    is_jump[0] = is_new[0] & (piece.seq[0] != view.seq + step)
    if is_restated and not begins_epoch:
        is_new &= view.table.lookup(piece.key) != piece.row
    jumps = np.flatnonzero(is_jump)
    if log_end is None or not len(jumps):
        return is_new, 0
    view.complete_from = log_end
    if view.gap is not None:
        return is_new, 0
    first = int(jumps[0])
    view.gap = OpenGap(int(newest[first]) if first else view.seq)
    return is_new, first


def _announce(view: ShardView, digest: Digest) -> Changes:
    """Begins the epoch of a digest if it is newer: the digest of an empty table announces it."""
    if digest.epoch <= view.epoch:
        return Changes.empty()
    forgotten = _begin_epoch(view, digest.epoch)
    if not digest.hot:
        view.seq = digest.seq
    return forgotten


def _skip_to(view: ShardView, digest: Digest, offset: int, log_end: int | None) -> None:
    """Moves to the version of a newer digest: the changes before it that were not read are no longer in the log."""
    if view.gap is not None and offset >= view.complete_from:
        view.gap = None
    if log_end is not None and digest.epoch == view.epoch and digest.seq > view.seq:
        view.gap = view.gap or OpenGap(view.seq)
        view.complete_from, view.seq = log_end, digest.seq


def _begin_epoch(view: ShardView, epoch: int) -> Changes:
    """Empties the shard; returns the changes that make its keys cold."""
    keys, _ = view.table.items()
    view.table.clear()
    view.epoch, view.seq = epoch, 0
    view.gap = view.gap and OpenGap(view.gap.floor)
    count = len(keys)
    return Changes(keys, np.full(count, NO_ROW, np.int32), np.zeros(count, np.float32))


def _compare(view: ShardView, digest: Digest, offset: int) -> Verdict:
    """Compares a digest with the shard's table."""
    if (digest.epoch, digest.seq) > (view.epoch, view.seq):
        view.verified_seq = -1
        return "ahead"
    if (digest.epoch, digest.seq) < (view.epoch, view.seq):
        return "stale"
    if (digest.digest, digest.hot) == (view.table.digest, view.table.num_hot):
        view.verified_seq, view.differs = view.seq, 0
        return "equal"
    if offset + 1 >= view.complete_from:
        view.mismatches, view.differs = view.mismatches + 1, 1
        return "differs"
    return "unproven"
