"""A shard of the sketch agent: it turns importance records into assignment records, without Kafka.

A shard's state is a pure function of its configuration and of the prefix of its importance partition. So an agent that
restarts from an old snapshot produces the same records with the same `seq`, and subscribers drop those that they have.
The module uses no clock.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from sketch import HotSet, SnapshotError
from sketch.changes import Changes
from sketch.hashing import shard_of
from sketch.snapshot import pack, unpack
from sketch.snapshot_checks import integer_of, refusing
from sketch.tiertable import TierTable
from streams.agent.click_marks import ClickMarks
from streams.agent.shard_config import ShardConfig
from streams.errors import InvariantError
from streams.keys import FIELD_SHIFT, Field, Keys, compare_fields
from streams.records import (
    BadRecord,
    ChangeEncoder,
    Claim,
    Digest,
    Encoded,
    ImportanceBatch,
    encode_claim,
    encode_digest,
    find_invalid,
    has_foreign_key,
)

__all__ = ["REVIEW_MS", "Shard"]

REVIEW_MS = 10_000  # of event time, after which a shard is reviewed that has fewer events than a review takes
_MAGIC = b"hotstream-shard"


class Shard:
    """One shard's state.

    Args:
        number: the shard, equal to its partition.
        config: the agent's configuration.
        epoch: the number of the configuration.
        seq: the last `seq` used.

    Attributes:
        next_offset: the next importance offset to read; the state includes all records before it.
        marks: the click records counted.
        num_counted: importance records counted, without repeated ones.
        num_repeated: importance records skipped, because their click record had been counted.
        num_events: feature events counted (keys of importance records).
        clock: the event time that scores decay in, without outliers; None if they decay in events.
        begins_epoch: whether the shard starts a new epoch, and does not continue a snapshot of the same configuration.
        written: the newest (epoch, seq) in the assignments topic; changes up to it are applied but not written again.
        generation: the number of this ownership of the shard, over all processes.
        suspects: keys whose newest record in the assignments topic may not be their newest change, 0 for the digest;
            see `restate`.
            These three are not part of the state.
    """

    def __init__(self, number: int, config: ShardConfig, *, epoch: int = 1, seq: int = 0) -> None:
        self.number = number
        self.config = config
        self.epoch = epoch
        self.seq = seq
        self.next_offset = 0
        self.marks = ClickMarks()
        self.num_counted = self.num_repeated = self.num_events = 0
        self.num_promotions = self.num_demotions = 0
        self.begins_epoch = True
        self.written = (0, 0)
        self.generation = 0
        self.suspects: set[int] = set()
        self.event_time_ms = 0  # of the newest record counted by this process
        self._reviewed_ms = 0
        self.fields: tuple[Field, ...] = ()
        self.hot_set = config.make_hot_set(number)
        self.clock = config.make_clock()
        self.table = TierTable()
        self.max_hot = 0

    def count(self, offset: int, batch: ImportanceBatch) -> list[Encoded] | BadRecord:
        """Counts one importance record; returns the records to publish, the changes followed by a digest.

        Returns none for an offset that the state includes, or for a click record counted before.
        """
        if offset < self.next_offset:
            return []
        self.next_offset = offset + 1
        if len(batch.fields) > len(self.fields) and batch.fields[: len(self.fields)] == self.fields:
            self.fields = batch.fields
        if (reason := compare_fields(batch.fields, self.fields)) is not None:
            return BadRecord(reason)
        if has_foreign_key(batch.keys, self.number, self.config.num_shards):
            return BadRecord(
                f"keys: got a key of another shard, expected shard {self.number} of {self.config.num_shards}"
            )
        if self.marks.is_counted(batch.source):
            self.num_repeated += 1
            return []
        self.num_counted += 1
        self.num_events += len(batch.keys)
        self.event_time_ms = batch.event_time_ms
        now_ms = batch.event_time_ms if self.clock is None else self.clock.advance(batch.event_time_ms)
        changes = self._update(batch, now_ms)
        return self._publish(changes, offset, batch) if len(changes) else []

    def _update(self, batch: ImportanceBatch, now_ms: int) -> Changes:
        """Counts a batch; reviews the hot set also if a quiet shard has had no review for a while of event time.

        A wrong event time may cause a review, which is harmless.
        """
        reviews = self.hot_set.num_reviews
        changes = self.hot_set.update(batch.keys, batch.scores, now_ms)
        if not reviews and not self._reviewed_ms:
            self._reviewed_ms = batch.event_time_ms
        if self.hot_set.num_reviews == reviews:
            if abs(batch.event_time_ms - self._reviewed_ms) < REVIEW_MS:
                return changes
            changes = Changes.concatenate([changes, self.hot_set.review()])
        self._reviewed_ms = batch.event_time_ms
        return changes

    @property
    def num_time_outliers(self) -> int:
        """Records counted whose event time was too far from that of others to count as time."""
        return 0 if self.clock is None else self.clock.num_outliers

    def skip(self, offset: int) -> None:
        """Skips a malformed or invalid record."""
        self.next_offset = max(self.next_offset, offset + 1)

    def _publish(self, changes: Changes, offset: int, batch: ImportanceBatch) -> list[Encoded]:
        hot_before = self.table.num_hot
        self.table.apply(changes)
        promotions = changes.num_promotions
        self.num_promotions += promotions
        self.num_demotions += hot_before + promotions - self.table.num_hot
        self.max_hot = max(self.max_hot, self.table.num_hot)
        encoder = ChangeEncoder(
            shard=self.number,
            epoch=self.epoch,
            source=(self.number, offset),
            event_time_ms=batch.event_time_ms,
            ingest_ms=batch.ingest_ms,
            fields=self.fields,
            generation=self.generation,
        )
        first_seq = self.seq + 1
        self.seq += len(changes)
        if (self.epoch, self.seq) < self.written:
            return []
        # After an interrupted write the topic has the first records of a batch, and lacks at least its digest.
        skipped = self.written[1] + 1 - first_seq if (self.epoch, first_seq) <= self.written else 0
        encoded = encoder.encode(changes.after(skipped), first_seq + skipped)
        encoded.append(encode_digest(self.describe()))
        return encoded

    def describe(self) -> Digest:
        """The digest of the present table."""
        return Digest(
            shard=self.number,
            epoch=self.epoch,
            seq=self.seq,
            hot=self.table.num_hot,
            digest=self.table.digest,
            generation=self.generation,
        )

    def claim(self) -> list[Encoded]:
        """The records that begin this ownership of the shard.

        A digest of the empty table announces an epoch of which the assignments topic has no record, so that readers
        do not keep the table of the former one until the first change.
        """
        claim = Claim(shard=self.number, epoch=self.epoch, seq=self.seq, generation=self.generation)
        is_announced = self.epoch <= self.written[0] or self.table.num_hot > 0
        return [encode_claim(claim), *([] if is_announced else [encode_digest(self.describe())])]

    @property
    def is_caught_up(self) -> bool:
        """Whether no change that the assignments topic has is still to be computed."""
        return (self.epoch, self.seq) >= self.written

    def restate(self) -> list[Encoded]:
        """The present tiers of the suspects, followed by a digest; forgets the suspects.

        Raises:
            InvariantError: the shard is not caught up, so that readers would drop the records as stale.
        """
        if not self.is_caught_up:
            raise InvariantError(f"shard {self.number}: got ({self.epoch}, {self.seq}), expected {self.written}")
        if not self.suspects:
            return []
        keys = self._own_keys(np.array(sorted(self.suspects), np.uint64))
        self.suspects = set()
        encoder = ChangeEncoder(
            shard=self.number,
            epoch=self.epoch,
            source=(self.number, max(self.next_offset - 1, 0)),
            event_time_ms=self.event_time_ms,
            ingest_ms=None,
            fields=self.fields,
            generation=self.generation,
            is_restated=True,
        )
        changes = Changes(keys, self.table.lookup(keys), self.hot_set.sketch.query(keys))
        return [*encoder.encode(changes, self.seq), encode_digest(self.describe())]

    def _own_keys(self, keys: Keys) -> Keys:
        """Those of the keys that a record of this shard can have."""
        numbers, is_own = keys >> FIELD_SHIFT, shard_of(keys, self.config.num_shards) == self.number
        keys = keys[is_own & (numbers >= 1) & (numbers <= len(self.fields))]
        return np.array([key for key in keys if find_invalid(key[np.newaxis], self.fields) is None], np.uint64)

    def to_bytes(self) -> bytes:
        """Serializes the whole state."""
        parameters = {
            "number": self.number,
            "config": dataclasses.asdict(self.config),
            "epoch": self.epoch,
            "seq": self.seq,
            "next_offset": self.next_offset,
            "marks": self.marks.to_state(),
            "reviewed_ms": self._reviewed_ms,
            "fields": [[field.name, field.kind] for field in self.fields],
            "clock": None if self.clock is None else self.clock.to_state(),
            "counters": [
                self.num_counted, self.num_repeated, self.num_events,
                self.num_promotions, self.num_demotions, self.max_hot,
            ],
        }  # fmt: skip
        return pack(_MAGIC, parameters, {"hot_set": np.frombuffer(self.hot_set.to_bytes(), np.uint8)})

    def follow(self, epoch: int, seq: int) -> None:
        """Sets the version of the newest record in the shard's assignments; changes up to it are not written again.

        If an old change were written again after newer ones, compaction would remove the first copy and with it the
        order. A shard that begins an epoch continues after this version: `seq` never decreases, not even with a new
        epoch, and no epoch is used twice, even if all snapshots were lost.
        """
        self.written = (epoch, seq)
        if self.begins_epoch:
            self.epoch = max(self.epoch, epoch + 1)
        if self.epoch > epoch:
            self.seq = max(self.seq, seq)

    def outdo(self) -> None:
        """Begins an epoch with the present table: no importance record explains the newest record of the topic.

        That happens if importance was deleted before it was counted, or if another program wrote the record. The whole
        table must be restated in the new epoch.
        """
        epoch, seq = self.written
        self.epoch, self.seq = max(self.epoch, epoch) + 1, max(self.seq, seq)
        self.suspects = {0, *self.table.items()[0].tolist()}

    @classmethod
    def from_bytes(cls, data: bytes, config: ShardConfig) -> Shard:
        """Restores a shard from `to_bytes`; with another configuration, begins a new epoch.

        A new epoch begins at the snapshot's offset with an empty table; its first record invalidates the subscribers'
        tables of the old epoch. `follow` then sets its first `seq`.

        Raises:
            SnapshotError: the data is damaged or no snapshot of a shard.
        """
        parameters, arrays = unpack(_MAGIC, data)
        with refusing("shard"):
            same = parameters["config"] == json.loads(json.dumps(dataclasses.asdict(config)))
            epoch = integer_of(parameters, "epoch", 1) + (0 if same else 1)
            number = integer_of(parameters, "number", 0, config.num_shards - 1)
            shard = cls(number, config, epoch=epoch, seq=integer_of(parameters, "seq"))
            shard.next_offset = integer_of(parameters, "next_offset")
            shard.marks = ClickMarks(parameters["marks"])
            shard.fields = tuple(Field(name, kind) for name, kind in parameters["fields"])
            counters = [integer_of({"counter": counter}, "counter") for counter in parameters["counters"]]
            shard.num_counted, shard.num_repeated, shard.num_events = counters[:3]
            shard.begins_epoch = not same
            if same:
                shard.num_promotions, shard.num_demotions, shard.max_hot = counters[3:]
                shard._reviewed_ms = integer_of(parameters, "reviewed_ms")
                shard._restore_clock(parameters)
                shard._restore(HotSet.from_bytes(arrays["hot_set"]))
        return shard

    def _restore(self, hot_set: HotSet) -> None:
        """Takes the hot set of a snapshot.

        Raises:
            SnapshotError: it is another shard's or configuration's, or has keys that no record of this shard can have.
        """
        if _shape_of(hot_set) != _shape_of(self.hot_set):
            raise SnapshotError(f"shard snapshot: got {_shape_of(hot_set)}, expected {_shape_of(self.hot_set)}")
        keys = hot_set.sketch.keys()
        problem = find_invalid(keys, self.fields)
        if problem is None and has_foreign_key(keys, self.number, self.config.num_shards):
            problem = "a key of another shard"
        rows_by_key = hot_set.table()
        if problem is None and bool((rows_by_key[0][1:] == rows_by_key[0][:-1]).any()):  # they ascend
            problem = "a key that is hot twice"
        if problem is not None:
            raise SnapshotError(f"shard snapshot: got {problem}, expected keys of the shard's records")
        self.hot_set = hot_set
        self.table.load(*rows_by_key)

    def _restore_clock(self, parameters: Mapping[str, Any]) -> None:
        if self.clock is not None and "clock" in parameters:  # older snapshots have no clock
            self.clock.load_state(parameters["clock"])


def _shape_of(hot_set: HotSet) -> tuple[object, ...]:
    """The parameters of a hot set and its sketch, which the configuration decides."""
    sketch = hot_set.sketch
    own = hot_set.capacity, hot_set.first_row, hot_set.half_life_events, hot_set.half_life_ms
    return *own, sketch.num_buckets, sketch.slots_per_bucket, sketch.admission, sketch.seed
