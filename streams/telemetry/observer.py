"""Observes a running system through its assignments and metrics topics, like any subscriber."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition

from streams.assignments.subscription import AssignmentReader
from streams.clients.config import KafkaConfig
from streams.records import Assignment
from streams.telemetry.latency import LatencyHistogram
from streams.topics import Topics

__all__ = ["Observer"]


class Observer:
    """Follows the assignments and metrics topics.

    Attributes:
        reader: the reader of the assignments, with the hot set as a table.
        latency: from the Kafka timestamp of a click record to the arrival here of a change that it caused, in ms.
        trainer: the trainer's latest metrics; empty before the first.
        num_behind: assignment records that the last `look` left unread.
        shards: the agents' latest metrics by shard.
        promotions: number of changes to hot.
        demotions: number of changes from hot.
        max_hot: the largest number of hot features so far.
        history: (seconds, hot, promotions, demotions), about once a second.
        auc_history: (rows trained, AUC by learner) of every metrics record of the trainer.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self.reader = AssignmentReader(config)
        self._metrics = KafkaConsumer(
            bootstrap_servers=config.servers,
            enable_auto_commit=False,
            fetch_max_wait_ms=20,
            **config.client_arguments(),
        )
        partition = TopicPartition(Topics(config.prefix).metrics, 0)
        self._metrics.assign([partition])
        self._metrics.seek_to_beginning(partition)
        self.latency = LatencyHistogram()
        self.trainer: dict[str, Any] = {}
        self.shards: dict[str, dict[str, Any]] = {}
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
                self._add_metrics(json.loads(record.value))

    def _add_metrics(self, metrics: dict[str, Any]) -> None:
        if metrics["process"] == "agent":
            self.shards.update(metrics["shards"])
        elif metrics["process"] == "trainer":
            self.trainer = metrics
            if metrics["rows"]:
                self.auc_history.append((metrics["rows"], metrics["auc"]))

    @property
    def counted(self) -> int:
        """The number of importance records that the agents have counted."""
        return sum(shard["counted"] for shard in self.shards.values())

    @property
    def rows_trained(self) -> int:
        """The number of rows that the trainer has trained on."""
        return int(self.trainer.get("rows", 0))
