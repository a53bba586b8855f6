"""Observes a running system through its assignments and metrics topics, like any subscriber."""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from streams.assignments.reader import AssignmentReader
from streams.clients.connector import Connector
from streams.clients.topic_reader import TopicReader
from streams.records import (
    AgentMetrics,
    Assignment,
    BadRecord,
    Metrics,
    ShardMetrics,
    TrainerMetrics,
    decode_metrics,
)
from streams.telemetry.latency import LatencyHistogram
from streams.topics import Topics

__all__ = ["Observer"]

_LAST_CHANGES = 8


class Observer:
    """Follows the assignments and metrics topics.

    Attributes:
        reader: the reader of the assignments, with the hot set as a table.
        latency: from the Kafka timestamp of a click record to the arrival here of a change that it caused, in ms.
        trainer: the trainer's latest metrics; None before the first.
        num_behind: assignment records that the last `look` left unread.
        shards: the agents' latest metrics by shard.
        num_bad: number of malformed metrics records.
        promotions: number of changes to hot.
        demotions: number of changes from hot.
        last_changes: the last 8 changes, in the order in which they were read.
        max_hot: the largest number of hot features so far.
        history: (seconds, hot, promotions, demotions), about once a second.
        auc_history: (rows trained, AUC by learner) of every metrics record of the trainer.
    """

    def __init__(self, connector: Connector) -> None:
        self.reader = AssignmentReader(connector)
        self._metrics = TopicReader(connector, Topics(connector.prefix).metrics)
        self.latency = LatencyHistogram()
        self.trainer: TrainerMetrics | None = None
        self.shards: dict[int, ShardMetrics] = {}
        self.last_changes: deque[Assignment] = deque(maxlen=_LAST_CHANGES)
        self.num_bad = 0
        self.num_behind = 0
        self.promotions = self.demotions = self.max_hot = 0
        self.history: list[tuple[float, int, int, int]] = []
        self.auc_history: list[tuple[int, dict[str, float | None]]] = []
        self._started_s = time.monotonic()

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        self._metrics.close()

    def look(self, timeout_ms: int = 50) -> None:
        """Polls both topics once and updates the attributes.

        Args:
            timeout_ms: the maximum time to wait for assignment records.
        """
        hot_before = self.reader.table.num_hot
        promotions = 0
        ingest_ms = []
        for change, _ in self.reader.poll(timeout_ms):
            if isinstance(change, Assignment):
                promotions += change.tier == "hot"
                self.last_changes.append(change)
                if change.ingest_ms is not None:
                    ingest_ms.append(change.ingest_ms)
        if ingest_ms:
            self.latency.add(time.time_ns() / 1e6 - np.array(ingest_ms, np.float64))
        self.num_behind = self.reader.num_behind
        table = self.reader.table
        self.promotions += promotions
        self.demotions += hot_before + promotions - table.num_hot
        self.max_hot = max(self.max_hot, table.max_hot)
        now_s = time.monotonic() - self._started_s
        if not self.history or now_s - self.history[-1][0] >= 1.0:
            self.history.append((now_s, table.num_hot, self.promotions, self.demotions))
        for records in self._metrics.poll(timeout_ms=0).values():
            for record in records:
                self._add_metrics(decode_metrics(record.value))

    def _add_metrics(self, metrics: Metrics | BadRecord) -> None:
        if isinstance(metrics, BadRecord):
            self.num_bad += 1
        elif isinstance(metrics, AgentMetrics):
            self.shards.update(metrics.shards)
        else:
            self.trainer = metrics
            if metrics.rows:
                self.auc_history.append((metrics.rows, metrics.auc))

    @property
    def counted(self) -> int:
        """Importance records that the agents have counted."""
        return sum(shard.counted for shard in self.shards.values())

    @property
    def rows_trained(self) -> int:
        """Rows that the trainer has trained."""
        return self.trainer.rows if self.trainer else 0
