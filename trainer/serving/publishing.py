"""`EmbeddingPublisher`: which rows of an embedding a trainer publishes next, within so many bytes a second.

Between steps it copies the rows that changed the most, for their bytes, since they were last published; changes of the
hot set come first. It keeps the digest term of every row as published, finds by them rows that differ, and so proves at
quiet that nothing was forgotten.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sketch.keymap import KeyMap
from streams.assignments.shard_view import ShardView
from streams.keys import FIELD_SHIFT
from streams.records.embedding_rows import encode_rows
from streams.records.embeddings import NoteRecord, encode_chunk, encode_note
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.serving.addresses import slice_addresses
from trainer.serving.dense_versions import split_version
from trainer.serving.shape import ServedShape
from trainer.serving.terms import row_terms
from trainer.serving.units import Units

__all__ = ["EmbeddingPublisher", "Sender"]

_OVERHEAD = 64  # bytes a record: prefix, key and the batch's own
_MOST_UNITS = 1024  # a step
_PLAN_S, _DIGEST_S, _BURST_S = 0.25, 1.0, 0.25
_PLAN_SHARE, _FIRST = 100, 1e9  # a plan takes at most a hundredth of the time, however large the embedding
_SWEEP = 4096  # rows that are compared between two steps while there is nothing to send
_UNSENT = 1e-6  # priority of a row that was not published in this run and did not change
_FIRST_HOT = 1e-3

Item = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]


class Sender(Protocol):
    """Sends records in the background, such as `streams.clients.publisher_thread.PublisherThread`."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are not acknowledged."""

    def send(self, batch: Mapping[int, Sequence[Item]]) -> None:
        """Queues records by partition."""


class EmbeddingPublisher:
    """Publishes an embedding.

    Args:
        embedding: the embedding; of several slices, that of a shard.
        shape: its shape, of this run; of several slices, that of all together.
        sender: sends the records.
        bytes_per_s: the most bytes a second, on average over a quarter of a second.
        read_dense: returns the bytes of the dense part; None to publish none.
        dense_interval_s: the least time between two versions of the dense part; they take at most a quarter of the
            bytes.
        clock: monotonic seconds.
        shard: the slice; 0 if there is one. Each slice has a publisher of its own.

    Attributes:
        shape: as published.
        sent_bytes: bytes given to the sender; `sent_rows` records of rows.
    """

    def __init__(
        self,
        embedding: AdaptiveEmbedding,
        shape: ServedShape,
        sender: Sender,
        *,
        bytes_per_s: float,
        read_dense: Callable[[], bytes] | None = None,
        dense_interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        shard: int = 0,
    ) -> None:
        self._embedding, self.shape, self._sender, self._clock = embedding, shape, sender, clock
        self._model, self._shard = shape.fingerprint, shard
        self._block_rows, self._num_blocks = shape.block_rows, shape.num_blocks // shape.slices
        self._rate, self._read_dense, self._dense_interval_s = bytes_per_s, read_dense, dense_interval_s
        self.units = units = Units(embedding, shape, shard)
        self._priority = np.full(units.count, _UNSENT, np.float32)
        self._terms = np.zeros(units.count, np.uint64)
        self._is_unsent = np.ones(units.count, np.bool_)
        self._sums = dict.fromkeys(units.own_partitions, 0)
        self._allowed = np.zeros(256, np.bool_)
        self._allowed[list(shape.published)] = True
        self._routes, self._owners = KeyMap(), np.zeros(units.num_unique, np.uint64)
        self._urgent: list[int] = []
        self._queue, self._at, self._planned_s = np.empty(0, np.int64), 0, -math.inf
        self._plan_s, self._swept, self._clean_since = _PLAN_S, 0, 0
        self._budget, self._filled_s = 0.0, clock()
        self._digest_s, self._dense_s, self._dense_step, self._num_digests = -math.inf, -math.inf, -1, 0
        self._slot = 0
        self.sent_bytes = self.sent_rows = 0
        self._take_routes()
        self._send_shape()

    def _take_routes(self) -> None:
        """Takes the hot set as it is, and leaves out what is not published and what is free."""
        keys, rows = self._embedding.router.unsorted_items()
        mine = self._allowed[keys >> FIELD_SHIFT]
        self._routes.put(keys[mine], rows[mine])
        self._owners[rows[mine]] = keys[mine]
        self._priority[: self.units.num_unique] = np.where(self._owners != 0, _FIRST_HOT, 0)
        self._is_unsent[: self.units.num_unique] = self._owners != 0
        first = self.units.starts["1"]
        hidden = first + np.flatnonzero(~self._allowed[1 : self.shape.layout.num_fields + 1])
        self._priority[hidden], self._is_unsent[hidden] = 0, False
        self._hidden = np.zeros(self.units.count, np.bool_)
        self._hidden[hidden] = True

    def _send_shape(self) -> None:
        item = encode_note(NoteRecord(kind="s", number=0, content=self.shape.to_json()))
        self._give({number: [item] for number in self.units.own_partitions})

    # ---- what changed ----

    def note_keys(self, keys: npt.NDArray[np.uint64], scores: npt.NDArray[np.float32]) -> None:
        """Notes the distinct keys (K,) that a step trained, and how much: scores (K,)."""
        rows, units, shape = self._routes.get(keys), self.units, self.shape
        hot, cold = np.flatnonzero(rows >= 0), np.flatnonzero(rows < 0)
        self._priority[rows[hot]] += scores[hot]  # keys are distinct, and so are their rows
        shared, weights = keys[cold], scores[cold].astype(np.float64)
        addresses = slice_addresses(shape, self._shard, shared)
        by_field = np.bincount(addresses[:, 0] // np.int32(shape.level_1_per_block), weights, shape.layout.num_fields)
        self._priority[units.starts["1"] : units.starts["2"]] += np.maximum(by_field, _UNSENT)
        blocks = np.minimum(addresses[:, 1:].reshape(-1) // np.int32(self._block_rows), np.int32(self._num_blocks - 1))
        by_block = np.bincount(blocks, np.repeat(weights, addresses.shape[1] - 1), self._num_blocks)
        self._priority[units.starts["2"] : units.starts["g"]] += by_block
        self._priority[self._hidden] = 0
        self._priority[units.starts["g"]] += scores.mean() if len(scores) else 0
        self._clean_since = 0

    def note_changes(self, keys: npt.NDArray[np.uint64]) -> None:
        """Notes keys (K,), repeated or not, whose tier may have changed; after the embedding's `migrate`."""
        values = self._embedding.router.values
        after = values(keys)
        evicted = self._owners[after[after >= 0]]  # they have lost the row, whether a change names them or not
        keys = np.unique(np.concatenate([keys, evicted]))
        keys = keys[self._allowed[keys >> FIELD_SHIFT]]
        before, after = self._routes.get(keys), values(keys)
        moved = before != after
        keys, before, after = keys[moved], before[moved], after[moved]
        taken, freed = after[after >= 0], before[before >= 0]
        self._routes.remove(keys[after < 0])
        self._routes.put(keys[after >= 0], taken)
        self._owners[freed] = 0
        self._owners[taken] = keys[after >= 0]
        changed = list(dict.fromkeys([*taken.tolist(), *freed.tolist()]))  # a key that moves never lacks a row
        self._urgent += changed
        self._priority[changed] = np.inf
        self._clean_since = 0

    # ---- sending ----

    @property
    def lag(self) -> dict[str, float]:
        """Rows and bytes that changed and were not sent, and bytes that the broker has not acknowledged."""
        dirty = self._priority > 0
        return {
            "rows": int(dirty.sum()), "bytes": int(self.units.nbytes[dirty].sum()),
            "unacknowledged_bytes": self._sender.waiting_bytes,
        }  # fmt: skip

    @property
    def is_quiet(self) -> bool:
        """Whether every row was compared with what was published, and found equal, since the last change."""
        return self._clean_since >= self.units.count

    def publish(self, step: int, shards: Sequence[ShardView], *, force: bool = False) -> None:
        """Copies and sends rows as far as the budget allows; between steps.

        Args:
            step: rows of clicks trained so far.
            shards: the applied history of each shard, for epoch and seq.
            force: whether a digest is due, if all rows were sent once.
        """
        now_s = self._clock()
        self._budget = min(self._rate * _BURST_S, self._budget + self._rate * (now_s - self._filled_s))
        self._filled_s = now_s
        if self._sender.waiting_bytes > self._rate or self._budget <= 0:
            return
        if now_s - self._planned_s >= self._plan_s:
            self._plan(now_s)
        units = self._pick()
        if len(units):
            self._send_units(units, step, shards)
        elif self._at >= len(self._queue):
            self._sweep()
        if not self._is_unsent.any() and (force or now_s - self._digest_s >= _DIGEST_S):
            self._digest_s = now_s
            self._send_digests(step)
        self._send_dense(now_s, step)

    def _plan(self, now_s: float) -> None:
        """Orders what changed, for as long as two plans last.

        What was never sent goes before all: nothing is served until the model is complete. Unique rows and shared ones
        take half of the bytes each, so that neither waits for the other; what one leaves, the other takes.
        """
        dirty, reach = np.flatnonzero(self._priority > 0), 2 * self._rate * self._plan_s
        is_unique = dirty < self.units.num_unique
        kinds = [self._most_changed(dirty[one], reach) for one in (is_unique, ~is_unique)]
        units = np.concatenate(kinds)
        spent = np.concatenate([np.cumsum(self.units.nbytes[one] + _OVERHEAD) for one in kinds])
        units = units[np.lexsort((spent, ~self._is_unsent[units]))]
        count = np.searchsorted(np.cumsum(self.units.nbytes[units] + _OVERHEAD), reach) + 1
        self._queue, self._at = units[:count], 0
        self._planned_s = now_s if len(dirty) else -math.inf
        self._plan_s = max(_PLAN_S, _PLAN_SHARE * (self._clock() - now_s))

    def _most_changed(self, units: npt.NDArray[np.int64], reach: float) -> npt.NDArray[np.int64]:
        """Those of the units (K,) that fit into so many bytes: the unsent, then the most changed for their bytes."""
        order = -self._priority[units].astype(np.float64) / self.units.nbytes[units] - _FIRST * self._is_unsent[units]
        most = max(1, int(reach / (_OVERHEAD + 1)))
        if len(units) > most:
            chosen = np.argpartition(order, most)[:most]
            units, order = units[chosen], order[chosen]
        return units[np.argsort(order, kind="stable")]

    def _pick(self) -> npt.NDArray[np.int64]:
        """The next units within the budget; at least one if there is any."""
        urgent, waiting = self._urgent[:_MOST_UNITS], self._queue[self._at : self._at + _MOST_UNITS]
        units = np.concatenate([np.array(urgent, np.int64), waiting])
        cost = np.cumsum(self.units.nbytes[units] + _OVERHEAD)
        count = min(int(np.searchsorted(cost, self._budget, side="right")) + 1, len(units), _MOST_UNITS)
        self._urgent = self._urgent[min(count, len(urgent)) :]
        self._at += max(0, count - len(urgent))
        units = np.array(list(dict.fromkeys(units[:count].tolist())), np.int64)
        return units[self._priority[units] > 0]

    def _send_units(self, units: npt.NDArray[np.int64], step: int, shards: Sequence[ShardView]) -> None:
        time_ms, batch = time.time_ns() // 1_000_000, defaultdict[int, list[Item]](list)
        self._priority[units], self._is_unsent[units] = 0, False
        versions = np.array([(max(0, view.epoch), max(0, view.seq)) for view in shards], np.uint64)
        for kind, group in self.units.groups(units):
            numbers, owners, bodies = self._read(kind, group)
            partitions = self.units.partitions[group]
            self._note_terms(group, self._terms_of(kind, numbers, owners, bodies))
            items = encode_rows(
                kind, numbers, bodies, model=self._model, features=owners, step=step, time_ms=time_ms,
                versions=versions[partitions] if kind == "u" else None,
            )  # fmt: skip
            for partition, item in zip(partitions.tolist(), items, strict=True):
                batch[partition].append(item)
        self.sent_rows += len(units)
        self._give(batch)

    def _read(
        self, kind: str, group: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
        """The numbers (K,), owners (K,) and bodies (K, W) of units of one kind and size."""
        owners = self._owners[group] if kind == "u" else np.zeros(len(group), np.uint64)
        return self.units.numbers[group], owners, self.units.read(kind, group)

    def _terms_of(
        self, kind: str, numbers: npt.NDArray[np.int64], owners: npt.NDArray[np.uint64], bodies: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint64]:
        """The terms (K,) of what `_read` has returned; 0 of a unique row that is free."""
        terms = row_terms(kind, numbers, owners, bodies)
        return np.where(owners != 0, terms, np.uint64(0)) if kind == "u" else terms

    def _note_terms(self, units: npt.NDArray[np.int64], terms: npt.NDArray[np.uint64]) -> None:
        """Replaces the terms of units, and updates the sums."""
        change, partitions = terms - self._terms[units], self.units.partitions[units]
        for partition in np.flatnonzero(np.bincount(partitions)).tolist():
            total = int(np.add.reduce(change[partitions == partition], dtype=np.uint64))
            self._sums[partition] = (self._sums[partition] + total) % (1 << 64)
        self._terms[units] = terms

    def _sweep(self) -> None:
        """Compares some rows with what was published; what differs is sent next."""
        units = np.arange(self._swept, min(self._swept + _SWEEP, self.units.count))
        self._swept = (self._swept + len(units)) % self.units.count
        differing = []
        for kind, group in self.units.groups(units[~self._hidden[units]]):
            differing.append(group[self._terms_of(kind, *self._read(kind, group)) != self._terms[group]])
        differs = np.concatenate([np.empty(0, np.int64), *differing])
        self._priority[differs] = np.maximum(self._priority[differs], _UNSENT)
        self._clean_since = 0 if len(differs) else self._clean_since + len(units)

    def _send_digests(self, step: int) -> None:
        batch: dict[int, list[Item]] = {}
        self._num_digests += 1
        lag_rows = int((self._priority > 0).sum())
        for partition, total in self._sums.items():
            content = {
                "kind": "digest", "model": f"{self._model:016x}", "number": self._num_digests, "step": step,
                "time_ms": time.time_ns() // 1_000_000, "digest": f"{total:016x}", "lag_rows": lag_rows,
            }  # fmt: skip
            batch[partition] = [encode_note(NoteRecord(kind="x", number=0, content=content))]
        self._give(batch)

    def _send_dense(self, now_s: float, step: int) -> None:
        """Sends a version of the dense part if one is due: its interval is over, and its share of the bytes saved."""
        if self._read_dense is None or now_s - self._dense_s < self._dense_interval_s or step == self._dense_step:
            return
        data = self._read_dense()
        self._dense_s, self._dense_step = now_s + 4 * len(data) / self._rate, step
        version, items = time.time_ns() // 1_000_000, list[Item]()
        for one in split_version(data, version=version, slot=self._slot, model=self._model):
            items.append(encode_note(one) if isinstance(one, NoteRecord) else encode_chunk(one))
        self._slot = 1 - self._slot
        self._give({0: items})

    def _give(self, batch: Mapping[int, Sequence[Item]]) -> None:
        size = sum(
            len(key or b"") + len(value or b"") + _OVERHEAD for items in batch.values() for key, value, _ in items
        )
        self._budget -= size
        self.sent_bytes += size
        self._sender.send(batch)
