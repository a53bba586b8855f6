"""`Standstill`: how long each shard made no progress, by the agents' own metrics."""

from __future__ import annotations

import time

import numpy as np

from streams.clients.connector import Connector
from streams.clients.topic_reader import TopicReader
from streams.records import AgentMetrics, decode_metrics
from streams.topics import Topics

__all__ = ["Standstill"]


class Standstill:
    """Follows the metrics topic from its end on.

    Agents report once a second, so a time without progress that is measured here is up to a second too long.

    Args:
        connector: the broker.

    Attributes:
        offsets: the next importance offset of each shard, by its newest owner.
    """

    def __init__(self, connector: Connector) -> None:
        self._reader = TopicReader(connector, Topics(connector.prefix).metrics)
        self._moved_ms: dict[int, int] = {}
        self._waits_s: list[tuple[int, float, float]] = []  # shard, when the wait ended, how long it was
        self._reports: dict[frozenset[int], float] = {}
        self.offsets: dict[int, int] = {}

    def close(self) -> None:
        """Disconnects."""
        self._reader.close()

    def look(self, timeout_ms: int = 100) -> None:
        """Reads what has been reported."""
        for records in self._reader.poll(timeout_ms).values():
            for record in records:
                metrics = decode_metrics(record.value)
                if isinstance(metrics, AgentMetrics):
                    self._note(metrics)

    def _note(self, metrics: AgentMetrics) -> None:
        self._reports[frozenset(metrics.shards)] = time.monotonic()
        for number, shard in metrics.shards.items():
            if shard.next_offset <= self.offsets.get(number, -1):
                continue
            if number in self._moved_ms:
                self._waits_s.append((number, time.monotonic(), (metrics.time_ms - self._moved_ms[number]) / 1000))
            self._moved_ms[number], self.offsets[number] = metrics.time_ms, shard.next_offset

    def num_owners(self, within_s: float = 2.5) -> int:
        """How many agents have reported shards of their own in the last moments, each shard once."""
        now_s = time.monotonic()
        recent = [shards for shards, seen_s in self._reports.items() if shards and now_s - seen_s < within_s]
        is_settled = sum(map(len, recent)) == len(self.offsets) == len(frozenset().union(*recent))
        return len(recent) if is_settled else 0

    def summarise(self, since_s: float) -> dict[str, float]:
        """Quantiles over the shards of the longest time without progress since then, in seconds."""
        longest = dict.fromkeys(self.offsets, 0.0)
        for number, ended_s, wait_s in self._waits_s:
            if ended_s >= since_s:
                longest[number] = max(longest[number], wait_s)
        p50, p99 = np.quantile(list(longest.values()), [0.5, 0.99])
        return {"p50_s": round(float(p50), 2), "p99_s": round(float(p99), 2), "max_s": round(max(longest.values()), 2)}
