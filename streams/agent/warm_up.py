"""Compiles what an agent runs before its first record arrives."""

from __future__ import annotations

import numpy as np

from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.importance import count_keys, split_by_shard
from streams.keys import CRITEO_FIELDS, PAYLOAD_BITS
from streams.records import (
    ClickBatch,
    ImportanceBatch,
    Source,
    decode_clicks,
    decode_importance,
    encode_clicks,
    encode_importance,
)

__all__ = ["compile_kernels"]

_CAPACITY = 64  # the slots of a single bucket would be contiguous, which is another type to the compiler


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
    shard = Shard(0, ShardConfig(capacity=_CAPACITY, num_shards=1))
    for _, part in split_by_shard(*count_keys(read.keys), read, source, num_shards=1, ingest_ms=0):
        batch = decode_importance(*encode_importance(part))
        assert isinstance(batch, ImportanceBatch)  # noqa: S101
        shard.count(0, batch)
    Shard.from_bytes(shard.to_bytes(), shard.config).table.lookup(read.keys)
