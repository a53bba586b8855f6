"""A shard of the sketch agent: it turns importance records into assignment records, without Kafka.

A shard's state is a pure function of its configuration and of the prefix of its importance partition. So an agent that
restarts from an old snapshot produces the same records with the same `seq`, and subscribers drop those that they have.
The module uses no clock.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sketch import HotSet, HotSketch, ParameterError, SnapshotError
from sketch.changes import Changes
from sketch.snapshot import pack, unpack
from sketch.snapshot_checks import integer_of, refusing
from sketch.tiertable import TierTable
from streams.errors import ConfigError
from streams.event_clock import EventClock
from streams.importance import count_keys, split_by_shard
from streams.keys import CRITEO_FIELDS, PAYLOAD_BITS, Field
from streams.records import (
    MAX_UNIQUE_ROWS,
    BadRecord,
    ChangeEncoder,
    ClickBatch,
    Digest,
    Encoded,
    ImportanceBatch,
    Source,
    decode_clicks,
    decode_importance,
    encode_clicks,
    encode_digest,
    encode_importance,
    find_invalid,
    has_foreign_key,
)

__all__ = ["Shard", "ShardConfig", "compile_kernels"]

_MAGIC = b"hotstream-shard"
_MOST_MS = 1 << 62


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """The configuration of an agent, the same for every shard.

    Args:
        capacity: hot rows over all shards.
        num_shards: partitions of the importance topic.
        buckets_per_row: sketch buckets (64 bytes) for each hot row.
        half_life_events: the number of feature events, over all shards, after which a score counts half.
        half_life_s: alternatively, the half-life in seconds of event time, equal for all shards. If neither is given:
            1000 events a row.
        admission: the sketch's rule for new keys.
        seed: the sketch's seed.
    """

    capacity: int
    num_shards: int
    buckets_per_row: float = 1.0
    half_life_events: float | None = None
    half_life_s: float | None = None
    admission: str = "randomized"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.capacity < self.num_shards:
            raise ConfigError(
                f"capacity: got {self.capacity} rows for {self.num_shards} shards, expected at least one a shard"
            )
        if self.capacity > MAX_UNIQUE_ROWS:
            raise ConfigError(f"capacity: got {self.capacity} rows, expected at most {MAX_UNIQUE_ROWS}")
        if not self.buckets_per_row > 0:
            raise ConfigError(f"buckets_per_row: got {self.buckets_per_row}, expected more than 0")
        try:
            HotSet(1, HotSketch(1), **self._half_life())
        except ParameterError as error:
            raise ConfigError(f"half-life of a shard (of {self.num_shards}): {error}") from error

    def rows_of(self, shard: int) -> tuple[int, int]:
        """First row and number of rows of a shard; the ranges are contiguous and differ in size by at most one."""
        first = self.capacity * shard // self.num_shards
        return first, self.capacity * (shard + 1) // self.num_shards - first

    def _half_life(self) -> dict[str, Any]:
        """The half-life of one shard, as `HotSet` takes it."""
        events, seconds = self.half_life_events, self.half_life_s
        return {
            "half_life_events": None if events is None else events / self.num_shards,
            "half_life_ms": None if seconds is None else seconds * 1000,
        }

    def make_clock(self) -> EventClock | None:
        """A new clock of a shard; None if scores decay in events."""
        half_life_s = self.half_life_s
        return None if half_life_s is None else EventClock(max(1, int(min(half_life_s * 1000, _MOST_MS))))

    def make_hot_set(self, shard: int) -> HotSet:
        """A new hot set for a shard."""
        first_row, rows = self.rows_of(shard)
        buckets = max(1, math.ceil(rows * self.buckets_per_row))
        sketch = HotSketch(buckets, admission=self.admission, seed=self.seed)  # type: ignore[arg-type]
        return HotSet(rows, sketch, first_row=first_row, **self._half_life())


class Shard:
    """One shard's state.

    Args:
        number: the shard, equal to its partition.
        config: the agent's configuration.
        epoch: the number of the configuration.
        seq: the last `seq` used.

    Attributes:
        next_offset: the next importance offset to read; the state includes all records before it.
        marks: the last click offset counted, by (signal, click partition).
        num_counted: importance records counted, without repeated ones.
        num_repeated: importance records skipped, because their click record had been counted.
        num_events: feature events counted (keys of importance records).
        clock: the event time that scores decay in, without outliers; None if they decay in events.
        begins_epoch: whether the shard starts a new epoch, and does not continue a snapshot of the same configuration.
        written: the newest (epoch, seq) in the assignments topic; changes up to it are applied but not written again.
            Not part of the state.
    """

    def __init__(self, number: int, config: ShardConfig, *, epoch: int = 1, seq: int = 0) -> None:
        self.number = number
        self.config = config
        self.epoch = epoch
        self.seq = seq
        self.next_offset = 0
        self.marks: dict[tuple[str, int], int] = {}
        self.num_counted = self.num_repeated = self.num_events = 0
        self.num_promotions = self.num_demotions = 0
        self.begins_epoch = True
        self.written = (0, 0)
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
        if batch.fields != self.fields[: len(batch.fields)]:
            return BadRecord(f"fields: got {batch.fields}, expected the shard's fields so far, {self.fields}")
        if has_foreign_key(batch.keys, self.number, self.config.num_shards):
            return BadRecord(
                f"keys: got a key of another shard, expected shard {self.number} of {self.config.num_shards}"
            )
        mark = (batch.source.signal, batch.source.partition)
        if batch.source.offset <= self.marks.get(mark, -1):
            self.num_repeated += 1
            return []
        self.marks[mark] = batch.source.offset
        self.num_counted += 1
        self.num_events += len(batch.keys)
        now_ms = batch.event_time_ms if self.clock is None else self.clock.advance(batch.event_time_ms)
        changes = self.hot_set.update(batch.keys, batch.scores, now_ms)
        return self._publish(changes, offset, batch) if len(changes) else []

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
        )

    def to_bytes(self) -> bytes:
        """Serializes the whole state."""
        parameters = {
            "number": self.number,
            "config": dataclasses.asdict(self.config),
            "epoch": self.epoch,
            "seq": self.seq,
            "next_offset": self.next_offset,
            "marks": [[signal, partition, offset] for (signal, partition), offset in sorted(self.marks.items())],
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
            self.epoch, self.seq = max(self.epoch, epoch + 1), max(self.seq, seq)

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
            shard.marks = dict(_mark(*mark) for mark in parameters["marks"])
            shard.fields = tuple(Field(name, kind) for name, kind in parameters["fields"])
            counters = [integer_of({"counter": counter}, "counter") for counter in parameters["counters"]]
            shard.num_counted, shard.num_repeated, shard.num_events = counters[:3]
            shard.begins_epoch = not same
            if same:
                shard.num_promotions, shard.num_demotions, shard.max_hot = counters[3:]
                shard._restore_clock(parameters)
                shard._restore(HotSet.from_bytes(arrays["hot_set"].tobytes()))
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
        if problem is None and len(np.unique(rows_by_key[0])) < len(rows_by_key[0]):
            problem = "a key that is hot twice"
        if problem is not None:
            raise SnapshotError(f"shard snapshot: got {problem}, expected keys of the shard's records")
        self.hot_set = hot_set
        self.table.load(*rows_by_key)

    def _restore_clock(self, parameters: Mapping[str, Any]) -> None:
        if self.clock is not None and "clock" in parameters:  # older snapshots have no clock
            self.clock.load_state(parameters["clock"])


def _mark(signal: object, partition: object, offset: object) -> tuple[tuple[str, int], int]:
    numbers = {"partition": partition, "offset": offset}
    if not isinstance(signal, str):
        raise SnapshotError(f"shard snapshot: got signal {str(signal)[:50]}, expected a name")
    return (signal, integer_of(numbers, "partition")), integer_of(numbers, "offset")


def _shape_of(hot_set: HotSet) -> tuple[object, ...]:
    """The parameters of a hot set and its sketch, which the configuration decides."""
    sketch = hot_set.sketch
    own = hot_set.capacity, hot_set.first_row, hot_set.half_life_events, hot_set.half_life_ms
    return *own, sketch.num_buckets, sketch.slots_per_bucket, sketch.admission, sketch.seed


def compile_kernels() -> None:
    """Compiles the kernels for counting, or loads them from the cache, so that the first record does not wait.

    Runs encoded records through the whole path, because read-only arrays are a different type to the compiler.
    """
    rows = 4096 // len(CRITEO_FIELDS) + 1  # enough for the hot set to be reviewed
    numbers = np.arange(1, len(CRITEO_FIELDS) + 1, dtype=np.uint64) << np.uint64(PAYLOAD_BITS)
    clicks = ClickBatch(
        label=np.zeros(rows, np.int8),
        dense=np.zeros((rows, 0), np.float32),
        keys=numbers | np.arange(rows, dtype=np.uint64)[:, np.newaxis],
        event_time_ms=np.zeros(rows, np.int64),
        fields=CRITEO_FIELDS,
        dense_names=(),
    )
    read = decode_clicks(encode_clicks(clicks), [])
    assert isinstance(read, ClickBatch)  # noqa: S101
    source = Source(signal="frequency", topic="-", partition=0, offset=0)
    shard = Shard(0, ShardConfig(capacity=1, num_shards=1))
    for _, part in split_by_shard(*count_keys(read.keys), read, source, num_shards=1, ingest_ms=0):
        batch = decode_importance(*encode_importance(part))
        assert isinstance(batch, ImportanceBatch)  # noqa: S101
        shard.count(0, batch)
    Shard.from_bytes(shard.to_bytes(), shard.config).table.lookup(read.keys)
