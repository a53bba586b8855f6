"""The inputs of the step benchmark: generated click records, and an agent in the same process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from sketch.changes import Changes
from sketch.hashing import shard_of
from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.generator import Generator, GeneratorConfig
from streams.importance import split_by_shard
from streams.keys import CRITEO_FIELDS, FIELD_SHIFT
from streams.records import BadRecord, ClickBatch, Encoded, Source, decode_assignment, decode_clicks
from trainer.embedding.lookup import Importance
from trainer.process.outbox import encode_parts

__all__ = ["DENSE_NAMES", "NUM_SHARDS", "Agent", "Stream", "decode", "decode_all", "send", "work_beside"]

NUM_SHARDS = 2
DENSE_NAMES = tuple(f"I{number}" for number in range(1, 14))


class Stream:
    """Synthetic Criteo rows as consecutive click records of any size."""

    def __init__(self, seed: int) -> None:
        self._generator = Generator(GeneratorConfig(seed=seed))
        self.next_row = 0

    def take(self, num_rows: int) -> ClickBatch:
        """The next `num_rows` rows."""
        block = next(self._generator.blocks(num_rows, num_rows, self.next_row))
        self.next_row += num_rows
        fields = np.arange(1, len(CRITEO_FIELDS) + 1, dtype=np.uint64) << FIELD_SHIFT
        return ClickBatch(
            label=block.label,
            dense=block.dense,
            keys=fields | block.payloads,
            event_time_ms=np.arange(num_rows, dtype=np.int64),
            fields=CRITEO_FIELDS,
            dense_names=DENSE_NAMES,
        )


class Agent:
    """The shards of an agent without a broker."""

    def __init__(self, capacity: int) -> None:
        self.shards = [
            Shard(number, ShardConfig(capacity=capacity, num_shards=NUM_SHARDS)) for number in range(NUM_SHARDS)
        ]

    def fill(self, keys: npt.NDArray[np.uint64], scores: npt.NDArray[np.float32]) -> Iterator[Changes]:
        """Counts keys in one batch; yields the changes of each shard."""
        shards = shard_of(keys, NUM_SHARDS)
        for number, shard in enumerate(self.shards):
            changes = shard.hot_set.update(keys[shards == number], scores[shards == number])
            shard.table.apply(changes)
            shard.seq += len(changes)
            yield changes

    def count(self, importance: Importance, batch: ClickBatch, offset: int) -> list[Encoded]:
        """Counts the importance of a step; returns the assignment records."""
        records: list[Encoded] = []
        for number, part in split_by_shard(
            importance.keys, importance.scores, batch, source_of(offset), num_shards=NUM_SHARDS, ingest_ms=0
        ):
            published = self.shards[number].count(offset, part)
            if isinstance(published, BadRecord):
                raise TypeError(published.reason)
            records += published
        return records


def source_of(offset: int) -> Source:
    return Source(signal="gradient", topic="clicks", partition=0, offset=offset)


def send(importance: Importance, batch: ClickBatch, offset: int) -> None:
    """Encodes the importance of a step as the outbox does."""
    encode_parts(importance, source_of(offset), batch, 0, NUM_SHARDS)


def decode_all(records: list[Encoded], decoded: list[Any]) -> None:
    """Decodes assignment records as the session does."""
    decoded += [decode_assignment(key, value, headers) for key, value, headers in records]


def work_beside(unsent: list[tuple[Importance, ClickBatch, int]], records: list[Encoded], decoded: list[Any]) -> None:
    """The work of the second thread in one step."""
    for waiting in unsent:
        send(*waiting)
    decode_all(records, decoded)


def decode(value: bytes) -> ClickBatch:
    """The batch of a click record."""
    batch = decode_clicks(value, [], fields=CRITEO_FIELDS, dense_names=DENSE_NAMES)
    if isinstance(batch, BadRecord):
        raise TypeError(batch.reason)
    return batch
