"""The past of the hot set, read from the assignments topic on demand: the table at a moment, one feature's story.

Exact as far as compaction has not reached. Each call reads the topic from its beginning: O(records).
"""

from __future__ import annotations

from collections import Counter
from heapq import nlargest
from typing import Any

from streams.assignments.reader import AssignmentReader
from streams.clients.connector import Connector
from streams.clients.partition_reader import open_partition_log
from streams.errors import ConfigError
from streams.escapes import escape
from streams.records import Assignment
from streams.topics import Topics

__all__ = ["read_moment", "read_span", "read_story"]

_MAX_EVENTS = 500


def read_span(connector: Connector) -> dict[str, Any]:
    """The offsets that the topic has, `[begin, end]` by partition, and the times of its first and last record in ms.

    Raises:
        BrokerError: the broker does not answer.
        TopicError: the topic is missing.
    """
    with AssignmentReader(connector) as reader:
        count = len(reader.end_offsets())
    topic, times = Topics(connector.prefix).assignments, list[int]()
    with open_partition_log(connector) as log:
        bounds = log.all_bounds(topic, count)
        for partition, (begin, end) in enumerate(bounds):
            ends = (log.read(topic, partition, begin, end), log.newest_first(topic, partition, window=1))
            times += [record.timestamp for records in ends if (record := next(records, None)) is not None]
    return {"offsets": dict(enumerate(bounds)), "times_ms": [min(times), max(times)] if times else None}


def read_moment(connector: Connector, moment: str, *, most: int = 100) -> dict[str, Any]:
    """The hot set as it stood at a moment.

    Args:
        connector: the broker.
        moment: see `streams.assignments.as_of.find_offsets`.
        most: the most features to name, those with the best scores when they became hot.

    Raises:
        BrokerError: the broker does not answer.
        ConfigError: the moment is malformed.
        TopicError: the topic is missing.
    """
    hot: dict[int, tuple[Assignment, int]] = {}
    with AssignmentReader(connector) as reader:
        ends = reader.stop_at(moment)
        for change, record in reader.changes_to(ends):
            hot.pop(change.key, None)
            if change.tier == "hot":
                hot[change.key] = change, record.timestamp
        verified = reader.table.history.verified
    fields = Counter(escape(_name(change).partition(":")[0]) for change, _ in hot.values())
    best = nlargest(most, hot.values(), key=lambda one: one[0].score or 0.0)
    return {
        "offsets": ends,
        "hot": len(hot),
        "verified": verified,
        "fields": [{"field": name, "hot": count} for name, count in fields.most_common()],
        "features": [
            {"feature": escape(_name(change)), "score": change.score, "row": change.row, "since_ms": time_ms}
            for change, time_ms in best
        ],
    }


def read_story(connector: Connector, feature: str) -> dict[str, Any]:
    """All changes of one feature that the topic has, oldest first, at most the last 500.

    Args:
        connector: the broker.
        feature: its printed form, whatever its case, or the 16 hex digits of its key.

    Raises:
        BrokerError: the broker does not answer.
        ConfigError: the topic has no change of this feature.
        TopicError: the topic is missing.
    """
    wanted, found = feature.strip().casefold(), list[tuple[Assignment, Any]]()
    with AssignmentReader(connector) as reader:
        for change, record in reader.changes_to(reader.end_offsets()):
            if wanted in (escape(_name(change)).casefold(), f"{change.key:016x}"):
                found.append((change, record))
    if not found:
        raise ConfigError(
            f"feature: got {escape(feature, 100)!r}, of which the topic has no change; expected a feature that is or "
            "was hot, such as C14:7e0ccccf"
        )
    last, _ = found[-1]
    return {
        "feature": escape(_name(last)),
        "key": f"{last.key:016x}",
        "shard": last.shard,
        "tier": last.tier,
        "row": last.row,
        "score": last.score,
        "num_events": len(found),
        "events": [
            {"time_ms": record.timestamp, "tier": change.tier, "row": change.row, "score": change.score,
             "epoch": change.epoch, "seq": change.seq, "offset": record.offset}
            for change, record in found[-_MAX_EVENTS:]
        ],
    }  # fmt: skip


def _name(change: Assignment) -> str:
    return change.feature or f"{change.key:016x}"
