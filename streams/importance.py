"""Importance of the features of a click record: count its keys, and split scores by shard. No state, no Kafka."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.hashing import SHARD_SEED, mix64
from streams.keys import Keys
from streams.records import ClickBatch, ImportanceBatch, Source

__all__ = ["count_keys", "split_batch", "split_by_shard"]

_HALF = np.uint64(32)
_ONE = np.uint64(1)


def count_keys(keys: Keys) -> tuple[Keys, npt.NDArray[np.float32]]:
    """The distinct keys of an array of any shape, and how often each occurs.

    Returns:
        (K,) uint64 distinct keys in order of first occurrence, and (K,) float32 counts.
    """
    flat = np.ascontiguousarray(keys).reshape(-1)
    num_slots = 1 << max(4, (2 * len(flat) - 1).bit_length())  # at most half full
    distinct, counts = np.empty(len(flat), np.uint64), np.zeros(len(flat), np.float32)
    num_distinct = _count_distinct(flat, np.full(num_slots, -1, np.int32), distinct, counts)
    return distinct[:num_distinct], counts[:num_distinct]


def split_by_shard(
    keys: Keys,
    scores: npt.NDArray[np.float32],
    batch: ClickBatch,
    source: Source,
    *,
    num_shards: int,
    ingest_ms: int,
) -> list[tuple[int, ImportanceBatch]]:
    """The scores of one click record as (shard, importance batch) pairs, one for each shard that owns a key.

    Args:
        keys: (K,) uint64 distinct keys; each batch keeps their order, in which the agent counts them.
        scores: (K,) float32, the sum of each key's scores.
        batch: the click record of the scores.
        source: its topic, partition and offset, and the signal of the scores.
        num_shards: partitions of the importance topic.
        ingest_ms: the click record's Kafka timestamp.
    """
    event_time_ms = int(batch.event_time_ms.max())
    part = ImportanceBatch(
        keys=keys, scores=scores, fields=batch.fields, source=source, event_time_ms=event_time_ms, ingest_ms=ingest_ms
    )
    return split_batch(part, num_shards)


def split_batch(batch: ImportanceBatch, num_shards: int) -> list[tuple[int, ImportanceBatch]]:
    """The parts of an importance batch of all shards, as (shard, batch) pairs, one for each shard that owns a key."""
    keys, scores = batch.keys, batch.scores
    grouped_keys, grouped_scores = np.empty(len(keys), np.uint64), np.empty(len(keys), np.float32)
    bounds = np.zeros(num_shards + 1, np.int64)  # shard s owns grouped_keys[bounds[s] : bounds[s + 1]]
    _group_by_shard(
        np.ascontiguousarray(keys),
        np.ascontiguousarray(scores),
        np.empty(len(keys), np.int32),
        bounds,
        grouped_keys,
        grouped_scores,
    )
    parts = []
    for shard in range(num_shards):
        owned = slice(bounds[shard], bounds[shard + 1])
        if bounds[shard] < bounds[shard + 1]:
            parts.append((shard, replace(batch, keys=grouped_keys[owned], scores=grouped_scores[owned])))
    return parts


@njit(cache=True)
def _count_distinct(keys, slots, distinct, counts):  # type: ignore[no-untyped-def]
    """Open addressing: `slots` holds indices into `distinct`, -1 where free; returns the number of distinct keys."""
    mask = np.uint64(slots.shape[0] - 1)
    num_distinct = 0
    for i in range(keys.shape[0]):
        slot = mix64(keys[i]) & mask
        while slots[slot] >= 0 and distinct[slots[slot]] != keys[i]:
            slot = (slot + _ONE) & mask
        index = slots[slot]
        if index < 0:
            index = np.int32(num_distinct)
            slots[slot] = index
            distinct[num_distinct] = keys[i]
            num_distinct += 1
        counts[index] += np.float32(1.0)
    return num_distinct


@njit(cache=True)
def _group_by_shard(keys, scores, shards, bounds, grouped_keys, grouped_scores):  # type: ignore[no-untyped-def]
    """A stable counting sort of keys and scores by shard; fills all arrays but the first two."""
    num_shards = np.uint64(bounds.shape[0] - 1)
    for i in range(keys.shape[0]):
        shard = np.int32((mix64(keys[i] ^ SHARD_SEED) >> _HALF) * num_shards >> _HALF)
        shards[i] = shard
        bounds[shard + 1] += 1
    for shard in range(1, bounds.shape[0]):
        bounds[shard] += bounds[shard - 1]
    ends = bounds[:-1].copy()
    for i in range(keys.shape[0]):
        position = ends[shards[i]]
        ends[shards[i]] += 1
        grouped_keys[position] = keys[i]
        grouped_scores[position] = scores[i]
