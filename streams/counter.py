"""The frequency signal: how often each key occurs in a click record. No state, no Kafka."""

from __future__ import annotations

import numpy as np

from streams.key_kernels import count_distinct, group_by_shard
from streams.keys import Keys
from streams.records import ClickBatch, ImportanceBatch, Source

__all__ = ["count_keys", "split_by_shard"]


def count_keys(keys: Keys) -> tuple[Keys, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """The distinct keys of an array of any shape, as they first occur, and how often each occurs (float32)."""
    return count_distinct(np.ascontiguousarray(keys).reshape(-1))


def split_by_shard(
    keys: Keys,
    scores: np.ndarray[tuple[int], np.dtype[np.float32]],
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
    keys, scores, bounds = group_by_shard(np.ascontiguousarray(keys), np.ascontiguousarray(scores), num_shards)
    event_time_ms = int(batch.event_time_ms.max())
    parts = []
    for shard in range(num_shards):
        places = slice(bounds[shard], bounds[shard + 1])
        if bounds[shard] < bounds[shard + 1]:
            part = ImportanceBatch(
                keys=keys[places],
                scores=scores[places],
                fields=batch.fields,
                source=source,
                event_time_ms=event_time_ms,
                ingest_ms=ingest_ms,
            )
            parts.append((shard, part))
    return parts
