"""The progress of an agent over time, read from its metrics topic."""

from __future__ import annotations

from dataclasses import dataclass

from streams.clients.config import KafkaConfig
from streams.clients.topic_reader import TopicReader
from streams.records import AgentMetrics, ShardMetrics, decode_metrics
from streams.topics import Topics

__all__ = ["AgentFigures", "AgentSample"]


@dataclass(frozen=True, kw_only=True)
class AgentSample:
    """The counters of one metrics record of an agent."""

    time_s: float
    events: int
    counted: int
    changes: int

    def features_per_s(self, later: AgentSample) -> float:
        """Feature events per second between this sample and a later one."""
        return (later.events - self.events) / (later.time_s - self.time_s)


class AgentFigures:
    """The metrics of the only agent of a prefix, about one sample per second; the cost of reading is negligible."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self._metrics = TopicReader(kafka, Topics(kafka.prefix).metrics)
        self.samples: list[AgentSample] = []
        self.num_shards = 0

    def __enter__(self) -> AgentFigures:
        return self

    def __exit__(self, *_: object) -> None:
        self._metrics.close()

    def look(self) -> AgentFigures:
        """Reads the metrics records that have arrived."""
        for records in self._metrics.poll(timeout_ms=50).values():
            for record in records:
                metrics = decode_metrics(record.value)
                if isinstance(metrics, AgentMetrics):
                    self._note(metrics.time_ms / 1000, list(metrics.shards.values()))
        return self

    def _note(self, time_s: float, shards: list[ShardMetrics]) -> None:
        self.num_shards = len(shards)
        sample = AgentSample(
            time_s=time_s,
            events=sum(shard.events for shard in shards),
            counted=sum(shard.counted for shard in shards),
            changes=sum(shard.seq for shard in shards),
        )
        self.samples.append(sample)

    @property
    def counted(self) -> int:
        """Importance records counted so far."""
        return self.samples[-1].counted if self.samples else 0

    @property
    def start(self) -> AgentSample:
        """The last sample before the first event."""
        return [sample for sample in self.samples if sample.events == 0][-1]

    def after(self, events: float) -> AgentSample:
        """The first sample with at least `events` events."""
        return next(sample for sample in self.samples if sample.events >= events)
