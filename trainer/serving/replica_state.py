"""`ReplicaState`: what the records of the topic `embeddings` make, without a broker: tables, digests and readiness."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streams.records.embeddings import ChunkRecord, EmbeddingRecord, NoteRecord, RowRecord
from trainer.errors import ReplicaError
from trainer.serving.compression.compressed_tables import CompressedTables
from trainer.serving.dense_versions import DenseVersions
from trainer.serving.exported import Exported
from trainer.serving.shape import ServedShape
from trainer.serving.tables import ServedTables
from trainer.serving.terms import add_modulo, row_terms

__all__ = ["PartitionState", "ReplicaState"]

logger = logging.getLogger(__name__)


@dataclass
class PartitionState:
    """What is known of one partition.

    Attributes:
        proves_from: a digest that differs before this offset proves nothing: compaction has removed rows.
        verified: whether the last digest that counts was equal; None if none was read.
        digest: the last digest; `is_quiet` whether no row was read since.
        time_ms: when the newest record was made, by the trainer's clock; `step` its rows of clicks.
        offset: the offset of the next record.
    """

    proves_from: int = 0
    verified: bool | None = None
    digest: int | None = None
    number: int = -1
    is_quiet: bool = False
    time_ms: int = 0
    step: int = 0
    offset: int = 0
    total: int = 0


class _Model:
    """The tables of one shape while they are read, and the terms of their rows."""

    def __init__(self, shape: ServedShape) -> None:
        self.shape, self.fingerprint, self.tables = shape, shape.fingerprint, ServedTables(shape)
        self.unique_terms = np.zeros(shape.layout.capacity_rows, np.uint64)
        self.terms: dict[tuple[str, int], int] = {}

    def take(self, records: Sequence[RowRecord]) -> int:
        """Applies records of one partition in order; returns what they add to its digest."""
        self.tables.apply(records)
        latest = {(record.kind, record.number): record for record in records}
        unique = [record for record in latest.values() if record.kind == "u"]
        return self._take_unique(unique) + sum(self._take_shared(one) for one in latest.values() if one.kind != "u")

    def replace(self, partition: int, records: Sequence[RowRecord]) -> int:
        """Applies the newest record of every row of a partition, frees its other unique rows; returns its digest."""
        used = np.flatnonzero(self.unique_terms)
        used = used[self.shape.partitions_of(used) == partition]
        found = [record.number for record in records if record.kind == "u"]
        lost = np.setdiff1d(used, np.array(found, np.int64))
        self.take([*(RowRecord(kind="u", number=row) for row in lost.tolist()), *records])
        used = np.flatnonzero(self.unique_terms)
        unique = add_modulo(self.unique_terms[used[self.shape.partitions_of(used) == partition]])
        return unique + sum(term for name, term in self.terms.items() if self.shape.partition_of(*name) == partition)

    def _take_unique(self, records: list[RowRecord]) -> int:
        rows = np.array([record.number for record in records], np.int64)
        before = add_modulo(self.unique_terms[rows])
        self.unique_terms[rows] = 0
        kept = [record for record in records if record.body is not None]
        if kept:
            bodies = np.frombuffer(b"".join(record.body or b"" for record in kept), np.uint8).reshape(len(kept), -1)
            numbers = np.array([record.number for record in kept], np.int64)
            keys = np.array([record.feature for record in kept], np.uint64)
            self.unique_terms[numbers] = row_terms("u", numbers, keys, bodies)
        after = add_modulo(self.unique_terms[rows])
        return after - before

    def _take_shared(self, record: RowRecord) -> int:
        name, body = (record.kind, record.number), np.frombuffer(record.body or b"", np.uint8)
        term = int(row_terms(record.kind, np.array([record.number]), np.zeros(1, np.uint64), body[None])[0])
        before, self.terms[name] = self.terms.get(name, 0), term
        return term - before


class ReplicaState:
    """Applies records.

    A shape begins a model. Until every partition has shown a digest of it, and every record that was in the topic at
    the start was read, the model before it is served; then all of the new one at once.

    Args:
        num_partitions: partitions of the topic.

    Attributes:
        served: the tables to look up in; None before the first model is complete.
        dense: the dense part.
        partitions: the state of each partition.
        num_mismatches: digests that differed and prove a fault.
        num_refused: records that do not fit the shape.
    """

    def __init__(self, num_partitions: int) -> None:
        self.served: ServedTables | None = None
        self.dense = DenseVersions()
        self.partitions = [PartitionState() for _ in range(num_partitions)]
        self.num_mismatches = self.num_refused = 0
        self._model: _Model | None = None

    def load(self, exported: Exported) -> None:
        """Serves an export from now on, which records of the same model continue, unless it is compressed.

        Raises:
            CheckpointError: its compressed rows are malformed.
            ReplicaError: it has another number of partitions, or rows of another size than its shape allows.
        """
        shape = exported.shape
        self._check_partitions(shape)
        self.dense.load(exported.time_ms, f"{shape.fingerprint:016x}", exported.dense)
        if exported.compression is not None:
            self.served = CompressedTables(exported)
            for state in self.partitions:
                state.step, state.time_ms = exported.step, exported.time_ms
            return
        self._model = model = _Model(shape)
        records: list[list[RowRecord]] = [[] for _ in self.partitions]
        for record in exported.records():
            records[shape.partition_of(record.kind, record.number)].append(record)
        for state, mine in zip(self.partitions, records, strict=True):
            state.total, state.step, state.time_ms = model.take(mine), exported.step, exported.time_ms
        self.served = model.tables

    @property
    def fingerprint(self) -> int | None:
        """That of the newest shape; None before one was read."""
        return None if self._model is None else self._model.fingerprint

    def replace(self, partition: int, records: Sequence[RowRecord]) -> None:
        """Replaces the rows of a partition by these, the newest record of each, up to the offset that was read."""
        state = self.partitions[partition]
        if self._model is None:
            return
        try:
            state.total = self._model.replace(partition, records)
        except ReplicaError as error:
            self._refuse(len(records), error)
        if state.is_quiet and state.digest is not None:
            state.verified = state.digest == state.total % (1 << 64)

    def take(self, partition: int, records: Sequence[tuple[int, EmbeddingRecord]]) -> None:
        """Applies records (offset, record) of a partition, in order."""
        state, rows = self.partitions[partition], list[RowRecord]()
        for offset, record in records:
            if isinstance(record, RowRecord):
                rows.append(record)
            elif isinstance(record, NoteRecord) and record.kind != "m":
                self._take_rows(state, rows)
                rows = []
                self._take_note(partition, offset, record)
            else:
                assert isinstance(record, ChunkRecord | NoteRecord)  # noqa: S101  the other kinds are above
                self.dense.take(record)
            state.offset = offset + 1
        self._take_rows(state, rows)

    def _take_rows(self, state: PartitionState, rows: list[RowRecord]) -> None:
        if not rows:
            return
        model = self._model  # rows of another one are older: in each partition its shape comes before its rows
        known = [row for row in rows if model is not None and (row.body is None or row.model == model.fingerprint)]
        self._apply(state, known)
        newest = max(rows, key=lambda row: row.time_ms)
        state.time_ms, state.step = max(state.time_ms, newest.time_ms), max(state.step, newest.step)
        state.is_quiet = False

    def _apply(self, state: PartitionState, rows: list[RowRecord]) -> None:
        if self._model is None or not rows:
            return
        try:
            state.total += self._model.take(rows)
        except ReplicaError as error:
            self._refuse(len(rows), error)

    def _refuse(self, count: int, error: ReplicaError) -> None:
        self.num_refused += count
        logger.warning("%s; %d records are dropped, and the next digest will differ", error, count)

    def _take_note(self, partition: int, offset: int, note: NoteRecord) -> None:
        if note.kind == "s":
            self._begin(ServedShape.from_json(note.content))
        else:
            self._compare(self.partitions[partition], offset, note.content)

    def _begin(self, shape: ServedShape) -> None:
        """Begins a model, unless it is the present one or older."""
        if self._model is not None and self._model.shape.run >= shape.run:
            return
        self._check_partitions(shape)
        self._model = _Model(shape)
        for state in self.partitions:
            state.total, state.digest, state.verified, state.number = 0, None, None, -1

    def _check_partitions(self, shape: ServedShape) -> None:
        if shape.partitions != len(self.partitions):
            raise ReplicaError(f"shape: {shape.partitions} partitions, expected {len(self.partitions)}")

    def _compare(self, state: PartitionState, offset: int, content: Any) -> None:
        """Compares a digest of the present model with the partition's rows."""
        model, number = self._model, content["number"]
        if model is None or content.get("model") != f"{model.fingerprint:016x}":
            return
        if number <= state.number:  # a copy of one that was read
            return
        state.number, state.digest, state.is_quiet = number, int(content["digest"], 16), True
        state.time_ms, state.step = content["time_ms"], content["step"]
        if state.digest == state.total % (1 << 64):
            state.verified = True
        elif offset + 1 >= state.proves_from:
            state.verified = False
            self.num_mismatches += 1

    def settle(self) -> None:
        """Serves the present model from now on if it is complete."""
        if self._model is None or self.served is self._model.tables:
            return
        read = all(state.digest is not None and state.offset >= state.proves_from for state in self.partitions)
        if read and self._model.tables.is_complete:
            self.served = self._model.tables

    def check_rows(self) -> list[bool | None]:
        """Whether the rows in memory have the last digest of each partition; None where it is not the newest record."""
        if self.served is None or self._model is None or self._model.tables is not self.served:
            return [None] * len(self.partitions)
        found = zip(self.partitions, self.served.digests(), strict=True)
        return [mine == state.digest if state.is_quiet and state.digest is not None else None for state, mine in found]
