"""Compiles what an agent runs before its first record arrives."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from streams.agent.shard import REVIEW_MS, Shard
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

logger = logging.getLogger(__name__)

_CAPACITY = 64  # the slots of a single bucket would be contiguous, which is another type to the compiler


def compile_kernels() -> None:
    """Compiles the kernels for counting, or loads them from the cache, so that the first record does not wait.

    Runs encoded records through the whole path, because read-only arrays are a different type to the compiler.
    """
    logger.info("compiles or loads its kernels, which takes about a minute once after an installation")
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
        quiet = replace(
            part,
            keys=part.keys[:1],
            scores=part.scores[:1],
            event_time_ms=part.event_time_ms + REVIEW_MS,
            source=replace(source, offset=1),
        )
        for offset, sent in enumerate((part, quiet)):  # the second one is reviewed because of its event time
            batch = decode_importance(*encode_importance(sent))
            assert isinstance(batch, ImportanceBatch)  # noqa: S101
            shard.count(offset, batch)
    Shard.from_bytes(shard.to_bytes(), shard.config).table.lookup(read.keys)
