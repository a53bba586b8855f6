"""`RowSink`: writes the vectors of hot keys to a Redis, and deletes those of demoted ones.

    8 bytes of the key, little-endian (a raw int64)   ->   D float32, little-endian (a raw vector)
    hotstream:as-of                                   ->   JSON: model, step, time_ms of what was written last

The database is the sink's own: at the start, and with each model that begins, it deletes what has a key of 8 bytes with
a field of the model and is not hot.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from streams.keys import FIELD_SHIFT
from trainer.serving.predictor import Predictor
from trainer.serving.tables import ServedTables

__all__ = ["AS_OF", "KeyValueStore", "RowSink", "raw_keys"]

logger = logging.getLogger(__name__)

AS_OF = b"hotstream:as-of"
_PIECE = 1000  # commands in a pipeline
_KEY_BYTES = 8


class KeyValueStore(Protocol):
    """What the sink needs of `redis.Redis`."""

    def pipeline(self, *, transaction: bool) -> Any:
        """A pipeline with `set`, `delete` and `execute`."""

    def scan_iter(self, *, count: int) -> Iterator[bytes]:
        """All keys."""


def raw_keys(keys: npt.NDArray[np.uint64]) -> list[bytes]:
    """The Redis keys of feature keys (K,)."""
    data = keys.astype("<u8").tobytes()
    return [data[start : start + _KEY_BYTES] for start in range(0, len(data), _KEY_BYTES)]


class RowSink:
    """Keeps a store equal to a served model.

    Guarantee: after `write` has returned, each hot key has its vector of that moment, and no other key of the model's
    fields has one. A `write` that raises leaves the rest for the next one.

    Args:
        predictor: the model.
        store: the store.

    Attributes:
        num_set: vectors written.
        num_deleted: keys deleted.
    """

    def __init__(self, predictor: Predictor, store: KeyValueStore) -> None:
        self._predictor, self._store = predictor, store
        self._tables: ServedTables | None = None
        self._written = np.empty(0, np.uint64)  # by unique row, the key whose vector the store has
        self.num_set = self.num_deleted = 0

    def write(self) -> int:
        """Writes what has changed; returns the number of commands.

        Raises:
            ReplicaError: no complete model was read yet.
            redis.RedisError: the store does not answer, or refuses.
        """
        tables, before = self._predictor.tables, self.num_set + self.num_deleted
        if tables is not self._tables:
            self._begin(tables)
        rows = tables.take_changed()
        for start in range(0, len(rows), _PIECE):
            piece = rows[start : start + _PIECE]
            try:
                self._write_rows(tables, piece)
            except BaseException:
                tables.note_changed(rows[start:])
                raise
        count = self.num_set + self.num_deleted - before
        if count:
            self._note_as_of()
        return count

    def _begin(self, tables: ServedTables) -> None:
        """Deletes what is not hot in a model that begins; all its rows are written next."""
        logger.info("a model with %d hot features begins", tables.num_hot)
        listed: list[bytes] = []
        for name in self._store.scan_iter(count=_PIECE):
            if len(name) == _KEY_BYTES:
                listed.append(name)
            if len(listed) >= _PIECE:
                self._delete_cold(tables, listed)
                listed = []
        self._delete_cold(tables, listed)
        tables.note_changed(np.arange(tables.shape.layout.capacity_rows))
        self._written = np.zeros(tables.shape.layout.capacity_rows, np.uint64)
        self._tables = tables

    def _delete_cold(self, tables: ServedTables, names: list[bytes]) -> None:
        keys = np.frombuffer(b"".join(names), "<u8").astype(np.uint64)
        fields = keys >> FIELD_SHIFT
        mine = (fields >= 1) & (fields <= tables.shape.layout.num_fields) & ~tables.routed(keys)
        self._execute(keys[mine], keys[:0], np.empty((0, 0), np.float32))

    def _write_rows(self, tables: ServedTables, rows: npt.NDArray[np.int64]) -> None:
        keys, vectors = tables.read_rows(rows)
        before = self._written[rows]
        lost = before[(before != 0) & (before != keys)]
        lost = lost[~tables.routed(lost)]
        self._execute(lost, keys[keys != 0], vectors)
        self._written[rows] = keys

    def _execute(
        self, lost: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64], vectors: npt.NDArray[np.float32]
    ) -> None:
        """Deletes keys, and sets others, in one pipeline."""
        if not len(lost) and not len(keys):
            return
        pipeline = self._store.pipeline(transaction=False)
        if len(lost):
            pipeline.delete(*raw_keys(lost))
        for name, vector in zip(raw_keys(keys), vectors.astype("<f4"), strict=True):
            pipeline.set(name, vector.tobytes())
        pipeline.execute()
        self.num_set += len(keys)
        self.num_deleted += len(lost)

    def _note_as_of(self) -> None:
        known = self._predictor.as_of()
        content = {
            "model": f"{self._predictor.shape.fingerprint:016x}", "step": known["step"], "time_ms": known["time_ms"]
        }  # fmt: skip
        pipeline = self._store.pipeline(transaction=False)
        pipeline.set(AS_OF, json.dumps(content).encode())
        pipeline.execute()
