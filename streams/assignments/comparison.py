"""Compares two hot sets, such as that of the running agents and that of a shadow with another configuration."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np

from streams.assignments.reader import AssignmentReader
from streams.clients.connector import Connector
from streams.clients.partition_reader import open_partition_log
from streams.keys import Keys
from streams.records import AgentMetrics, Assignment, ClickBatch, decode_clicks, decode_metrics
from streams.topics import Topics

__all__ = ["HotSetFigures", "compare_hot_sets", "compare_prefixes", "read_hot_set", "read_lookups"]

_METRICS_WINDOW = 64
_METRICS_READ = 512


@dataclass(frozen=True)
class HotSetFigures:
    """A hot set as a comparison shows it.

    Attributes:
        features: key -> the assignment that made it hot.
        changes_per_million_events: promotions and demotions a million feature events, since its agents began; None if
            they have reported nothing.
        lookups_served: the share of recent lookups whose feature is hot; None without clicks.
    """

    features: dict[int, Assignment]
    changes_per_million_events: float | None
    lookups_served: float | None


def read_hot_set(connector: Connector, lookups: Keys | None) -> HotSetFigures:
    """Reads the present hot set of the connector's prefix.

    Args:
        connector: the broker, with the prefix.
        lookups: the keys of recent clicks, of any shape.

    Raises:
        BrokerError: the broker does not answer.
        TopicError: the topic is missing.
    """
    features: dict[int, Assignment] = {}
    with AssignmentReader(connector) as reader:
        for change, _ in reader.changes_to(reader.end_offsets()):
            features.pop(change.key, None)
            if change.tier == "hot":
                features[change.key] = change
        hot = [features[key] for key, _ in reader.table.items() if key in features]
        served = None if lookups is None else float((reader.table.lookup(lookups) >= 0).mean())
    return HotSetFigures({change.key: change for change in hot}, _churn(connector), served)


def _churn(connector: Connector) -> float | None:
    """Changes a million feature events, from the newest metrics of each shard."""
    newest: dict[int, tuple[int, int]] = {}
    topic = Topics(connector.prefix).metrics
    with open_partition_log(connector) as log:
        for count, record in enumerate(log.newest_first(topic, 0, window=_METRICS_WINDOW)):
            known = decode_metrics(record.value)
            if isinstance(known, AgentMetrics):
                for number, shard in known.shards.items():
                    newest.setdefault(number, (shard.promotions + shard.demotions, shard.events))
            if count >= _METRICS_READ:
                break
    changes, events = (sum(column) for column in zip(*newest.values(), strict=True)) if newest else (0, 0)
    return changes / events * 1e6 if events else None


def read_lookups(connector: Connector, num_partitions: int, *, records: int) -> Keys | None:
    """The keys of the newest click records, (L,) uint64; None if there are none.

    Args:
        connector: the broker.
        num_partitions: partitions of the clicks topic.
        records: the number of records to read of each partition.
    """
    topic, found = Topics(connector.prefix).clicks, []
    with open_partition_log(connector) as log:
        for partition in range(num_partitions):
            for count, record in enumerate(log.newest_first(topic, partition, window=min(records, 64))):
                if count == records:
                    break
                batch = decode_clicks(record.value, record.headers)
                if isinstance(batch, ClickBatch):
                    found.append(batch.every_key.reshape(-1))
    return np.concatenate(found) if found else None


def compare_prefixes(
    ours: Connector, theirs: Connector, num_partitions: int, *, records: int, top: int
) -> dict[str, object]:
    """Reads and compares the hot sets of two prefixes, with the recent lookups of the first one.

    Args:
        ours: the broker, with one prefix.
        theirs: the broker, with the other.
        num_partitions: partitions of the clicks topic.
        records: see `read_lookups`; 0 reads none.
        top: see `compare_hot_sets`.

    Raises:
        BrokerError: the broker does not answer.
        TopicError: a topic is missing.
    """
    lookups = read_lookups(ours, num_partitions, records=records) if records else None
    return compare_hot_sets(read_hot_set(ours, lookups), read_hot_set(theirs, lookups), top=top)


def compare_hot_sets(ours: HotSetFigures, theirs: HotSetFigures, *, top: int) -> dict[str, object]:
    """The figures of a comparison, as JSON has them.

    Args:
        ours: one hot set.
        theirs: the other.
        top: the number of features to name that only one of them has, those with the best scores when they
            became hot (the topic has no later ones).
    """
    both = ours.features.keys() & theirs.features.keys()
    smaller = min(len(ours.features), len(theirs.features))
    return {
        "hot": [len(ours.features), len(theirs.features)],
        "in_both": len(both),
        "overlap": len(both) / smaller if smaller else None,
        "changes_per_million_events": [ours.changes_per_million_events, theirs.changes_per_million_events],
        "lookups_served": [ours.lookups_served, theirs.lookups_served],
        "only_in_one": [_best(ours, both, top), _best(theirs, both, top)],
    }


def _best(figures: HotSetFigures, both: Set[int], top: int) -> list[dict[str, object]]:
    alone = [change for key, change in figures.features.items() if key not in both]
    alone.sort(key=lambda change: -(change.score or 0.0))
    return [{"feature": change.feature, "score": change.score} for change in alone[:top]]
