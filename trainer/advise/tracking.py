"""Runs the agent's hot set over the sampled rows: what it holds, how often it changes, and what its records weigh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sketch.changes import Changes
from sketch.hotset import HotSet
from sketch.hotsketch import HotSketch
from streams.importance import count_keys
from streams.keys import Field, Keys
from streams.records import ImportanceBatch, Source, encode_importance
from streams.records.change_encoder import ChangeEncoder
from trainer.advise.sample import RECORD_ROWS

__all__ = ["ImportanceLoad", "Tracked", "measure_importance", "track"]

_SOURCE = Source(signal="frequency", topic="clicks", partition=0, offset=0)


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """What an agent of one shard does with the sample; the last two are of its second half.

    Attributes:
        agent_bytes: bytes of sketch and hot set.
        num_hot: hot features at the end.
        hit_share: share of the lookups of the second half whose feature was hot before their click record.
        changes_per_row: changes of the hot set for each row of the second half.
        change_bytes: key, value and headers of one change; 0 if there was none.
    """

    agent_bytes: int
    num_hot: int
    hit_share: float
    changes_per_row: float
    change_bytes: float


@dataclass(frozen=True, kw_only=True)
class ImportanceLoad:
    """The importance records of the sample.

    Attributes:
        features_per_row: distinct features of a click record, over its rows.
        bytes_per_row: bytes of the importance records, over the rows.
    """

    features_per_row: float
    bytes_per_row: float


def _records(keys: Keys) -> list[Keys]:
    return [keys[start : start + RECORD_ROWS] for start in range(0, len(keys), RECORD_ROWS)]


def measure_importance(keys: Keys, fields: Sequence[Field]) -> ImportanceLoad:
    """What the importance records of keys (N, F) hold and weigh, one record for each click record."""
    num_features = num_bytes = 0
    for record in _records(keys):
        distinct, counts = count_keys(record)
        batch = ImportanceBatch(
            keys=distinct, scores=counts, fields=tuple(fields), source=_SOURCE, event_time_ms=0, ingest_ms=0
        )
        value, headers = encode_importance(batch)
        num_features += len(distinct)
        num_bytes += len(value) + sum(len(name) + len(header) for name, header in headers)
    return ImportanceLoad(features_per_row=num_features / len(keys), bytes_per_row=num_bytes / len(keys))


def track(keys: Keys, fields: Sequence[Field], capacity: int) -> Tracked:
    """Counts keys (N, F) as an agent with one bucket a row does, whose signal is their frequency."""
    hot_set = HotSet(capacity, HotSketch(capacity))
    hits, changes = 0, []
    half = len(keys) // 2
    for part, is_second in ((keys[:half], False), (keys[half:], True)):
        for record in _records(part):
            distinct, counts = count_keys(record)
            if is_second:
                hits += int(counts[np.isin(distinct, hot_set.table()[0], assume_unique=True)].sum())
            made = hot_set.update(distinct, counts)
            changes += [made] if is_second else []
    rows, made = len(keys) - half, Changes.concatenate(changes)
    return Tracked(
        agent_bytes=hot_set.nbytes,
        num_hot=hot_set.num_hot,
        hit_share=hits / keys[half:].size,
        changes_per_row=len(made) / rows,
        change_bytes=_change_bytes(made, fields),
    )


def _change_bytes(changes: Changes, fields: Sequence[Field]) -> float:
    """Mean bytes of the records of some changes."""
    encoder = ChangeEncoder(shard=0, epoch=1, source=(0, 0), event_time_ms=0, ingest_ms=0, fields=fields)
    sizes = [
        len(key) + len(value or b"") + sum(len(name) + len(header) for name, header in headers)
        for key, value, headers in encoder.encode(changes.first(10_000), 1)
    ]
    return sum(sizes) / len(sizes) if sizes else 0.0
