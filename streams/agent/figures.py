"""The figures of an agent for its metrics, from what `AgentProgress` saw at its last look."""

from __future__ import annotations

import time
from collections.abc import Iterator

from streams.agent.progress import AgentProgress
from streams.telemetry.figures import Figure

__all__ = ["agent_figures"]

_BY_SHARD = {
    "records_total": "counted", "repeated_records_total": "repeated", "events_total": "events",
    "promotions_total": "promotions", "demotions_total": "demotions",
}  # fmt: skip


def agent_figures(progress: AgentProgress) -> Iterator[Figure]:
    """The figures of a process; may be called in any thread."""
    latest, worker = progress.latest, progress.worker
    yield Figure("agent_capacity_rows", latest.capacity)
    yield Figure("agent_shards", len(latest.shards))
    yield Figure("agent_dead_letters_total", 0 if worker.topics.is_shadow else latest.bad)
    yield Figure("agent_count_delay_seconds", progress.count_delay)
    for reason, number in progress.rejects().items():
        yield Figure("agent_rejects_total", number, {"reason": reason})
    for number, totals in list(progress.totals.items()):
        for name, counter in _BY_SHARD.items():
            yield Figure(f"agent_{name}", totals[counter], {"shard": str(number)})
    for number in latest.shards:
        yield from _shard_figures(progress, number)


def _shard_figures(progress: AgentProgress, number: int) -> Iterator[Figure]:
    shard, labels = progress.latest.shards[number], {"shard": str(number)}
    yield Figure("agent_hot_features", shard.hot, labels)
    yield Figure("agent_recall_ratio", shard.recall, labels)
    yield Figure("agent_hot_rows", progress.worker.config.shards.rows_of(number)[1], labels)
    yield Figure("agent_epoch", shard.epoch, labels)
    lag, record_ms = progress.lag.get(number), progress.record_times_ms.get(number)
    event_ms = progress.event_times_ms.get(number)
    yield Figure("agent_lag_records", lag, labels)
    if lag is not None and (record_ms is not None or not lag):
        age_s = 0.0 if not lag or record_ms is None else max(0.0, time.time() - record_ms / 1000)
        yield Figure("agent_lag_seconds", age_s, labels)
    yield Figure("agent_event_timestamp_seconds", None if event_ms is None else event_ms / 1000, labels)
    snapshot_age_s, unsaved = progress.snapshots.get(number, (None, None))
    yield Figure("agent_snapshot_age_seconds", snapshot_age_s, labels)
    yield Figure("agent_unsaved_records", unsaved, labels)
