"""Runs the agent's hot set over the sampled rows: what it holds, how often it changes, and what its records weigh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sketch.changes import Changes
from sketch.hotset import HotSet
from sketch.hotsketch import HotSketch
from streams.importance import count_keys
from streams.keys import Field
from streams.records import ImportanceBatch, Source, encode_importance
from streams.records.change_encoder import ChangeEncoder
from trainer.advise.lookups import Lookups
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


def measure_importance(lookups: Lookups, fields: Sequence[Field]) -> ImportanceLoad:
    """What the importance records of these lookups hold and weigh, one record for each click record."""
    num_features = num_bytes = 0
    for record in lookups.records(RECORD_ROWS):
        distinct, counts = count_keys(record)
        batch = ImportanceBatch(
            keys=distinct, scores=counts, fields=tuple(fields), source=_SOURCE, event_time_ms=0, ingest_ms=0
        )
        value, headers = encode_importance(batch)
        num_features += len(distinct)
        num_bytes += len(value) + sum(len(name) + len(header) for name, header in headers)
    rows = lookups.num_rows
    return ImportanceLoad(features_per_row=num_features / rows, bytes_per_row=num_bytes / rows)


def track(lookups: Lookups, fields: Sequence[Field], capacity: int) -> Tracked:
    """Counts the lookups as an agent with one bucket a row does, whose signal is their frequency."""
    hot_set = HotSet(capacity, HotSketch(capacity))
    hits, changes = 0, []
    half = lookups.num_rows // 2
    first, second = lookups.between(0, half), lookups.between(half, lookups.num_rows)
    for part, is_second in ((first, False), (second, True)):
        for record in part.records(RECORD_ROWS):
            distinct, counts = count_keys(record)
            if is_second:
                hits += int(counts[np.isin(distinct, hot_set.table()[0], assume_unique=True)].sum())
            made = hot_set.update(distinct, counts)
            changes += [made] if is_second else []
    made = Changes.concatenate(changes)
    return Tracked(
        agent_bytes=hot_set.nbytes,
        num_hot=hot_set.num_hot,
        hit_share=hits / second.keys.size,
        changes_per_row=len(made) / second.num_rows,
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
