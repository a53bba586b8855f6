"""Importance from a click record: keys counted, and scores split by shard. No state, no Kafka."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.hashing import SHARD_SEED, mix64
from streams.keys import Keys
from streams.records import ClickBatch, ImportanceBatch, Source

__all__ = ["count_keys", "split_by_shard"]

_HALF = np.uint64(32)
_ONE = np.uint64(1)


def count_keys(keys: Keys) -> tuple[Keys, npt.NDArray[np.float32]]:
    """The distinct keys of an array of any shape, in order of first occurrence, and their counts (float32)."""
    flat = np.ascontiguousarray(keys).reshape(-1)
    size = 1 << max(4, (2 * len(flat) - 1).bit_length())
    distinct, counts = np.empty(len(flat), np.uint64), np.zeros(len(flat), np.float32)
    number = _count_distinct(flat, np.full(size, -1, np.int32), distinct, counts)
    return distinct[:number], counts[:number]


def split_by_shard(
    keys: Keys,
    scores: npt.NDArray[np.float32],
    batch: ClickBatch,
    source: Source,
    *,
    num_shards: int,
    ingest_ms: int,
) -> list[tuple[int, ImportanceBatch]]:
    """The scores of one click record as importance batches, one for each shard that has a key.

    Args:
        keys: (K,) distinct keys, in the order in which the shards shall count them.
        scores: (K,) float32, summed per key.
        batch: the click record that they were computed from.
        source: its place, and the signal.
        num_shards: partitions of the importance topic.
        ingest_ms: the click record's Kafka timestamp.
    """
    grouped_keys, grouped_scores = np.empty(len(keys), np.uint64), np.empty(len(keys), np.float32)
    bounds = np.zeros(num_shards + 1, np.int64)  # where each shard's keys begin
    _group_by_shard(
        np.ascontiguousarray(keys),
        np.ascontiguousarray(scores),
        np.empty(len(keys), np.int32),
        bounds,
        grouped_keys,
        grouped_scores,
    )
    event_time_ms = int(batch.event_time_ms.max())
    parts = []
    for shard in range(num_shards):
        places = slice(bounds[shard], bounds[shard + 1])
        if bounds[shard] < bounds[shard + 1]:
            part = ImportanceBatch(
                keys=grouped_keys[places],
                scores=grouped_scores[places],
                fields=batch.fields,
                source=source,
                event_time_ms=event_time_ms,
                ingest_ms=ingest_ms,
            )
            parts.append((shard, part))
    return parts


@njit(cache=True)
def _count_distinct(keys, places, distinct, counts):  # type: ignore[no-untyped-def]
    mask = np.uint64(places.shape[0] - 1)
    number = 0
    for i in range(keys.shape[0]):
        slot = mix64(keys[i]) & mask
        while places[slot] >= 0 and distinct[places[slot]] != keys[i]:
            slot = (slot + _ONE) & mask
        place = places[slot]
        if place < 0:
            place = np.int32(number)
            places[slot] = place
            distinct[number] = keys[i]
            number += 1
        counts[place] += np.float32(1.0)
    return number


@njit(cache=True)
def _group_by_shard(keys, scores, shards, bounds, grouped_keys, grouped_scores):  # type: ignore[no-untyped-def]
    num_shards = np.uint64(bounds.shape[0] - 1)
    for i in range(keys.shape[0]):
        shard = np.int32((mix64(keys[i] ^ SHARD_SEED) >> _HALF) * num_shards >> _HALF)
        shards[i] = shard
        bounds[shard + 1] += 1
    for shard in range(1, bounds.shape[0]):
        bounds[shard] += bounds[shard - 1]
    ends = bounds[:-1].copy()
    for i in range(keys.shape[0]):
        place = ends[shards[i]]
        ends[shards[i]] += 1
        grouped_keys[place] = keys[i]
        grouped_scores[place] = scores[i]
