"""Topic names and the required settings of each topic; no other module defines either.

Topics are created explicitly, never by the broker. The number of partitions of `importance`, `assignments` and
`sketch-snapshots` is the number of shards. It is fixed for the lifetime of the topics, because the shard of a feature
must not change.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["TopicSpec", "Topics"]

_LARGE_RECORDS = {"max.message.bytes": str(8 << 20)}
# Every new subscriber reads the whole topic, so compaction must remove superseded changes early. A tombstone must stay
# as long as a subscriber may be disconnected (a day); a subscriber that misses it keeps the demoted feature for ever.
_COMPACTED = {
    "segment.ms": "600000",
    "min.cleanable.dirty.ratio": "0.2",
    "delete.retention.ms": "86400000",
}


@dataclass(frozen=True, kw_only=True)
class TopicSpec:
    """The required settings of a topic.

    Args:
        name: the full name, with the prefix.
        partitions: the number of partitions.
        cleanup: `cleanup.policy`: `delete` or `compact`.
        configs: further topic configurations, as Kafka names them.
    """

    name: str
    partitions: int
    cleanup: str
    configs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Topics:
    """The topic names under one prefix."""

    prefix: str = "hotstream"

    @property
    def clicks(self) -> str:
        """Batches of rows of the click log."""
        return f"{self.prefix}.clicks"

    @property
    def importance(self) -> str:
        """Scores of features, computed from clicks."""
        return f"{self.prefix}.importance"

    @property
    def assignments(self) -> str:
        """Every change of the hot set."""
        return f"{self.prefix}.assignments"

    @property
    def snapshots(self) -> str:
        """Snapshots of the agents' state."""
        return f"{self.prefix}.sketch-snapshots"

    @property
    def metrics(self) -> str:
        """Metrics that the processes report."""
        return f"{self.prefix}.metrics"

    @property
    def control(self) -> str:
        """What all processes of a prefix agree on: the agents' configuration, and the progress of replays."""
        return f"{self.prefix}.control"

    def replay_id(self, name: str) -> str:
        """The transactional id of the replay `name`; all begin with `replay_id("")`."""
        return f"{self.prefix}.replay.{name}"

    @staticmethod
    def dead_letters(topic: str) -> str:
        """The topic of the invalid records of `topic`."""
        return f"{topic}.dlq"

    def specs(self, *, click_partitions: int = 1, shards: int = 1) -> list[TopicSpec]:
        """All topics that `hotstream topics create` creates.

        Args:
            click_partitions: partitions of `clicks`.
            shards: partitions of `importance`, `assignments` and `sketch-snapshots`.
        """
        log = {"retention.ms": str(7 * 86_400_000)}
        return [
            TopicSpec(
                name=self.clicks,
                partitions=click_partitions,
                cleanup="delete",
                configs={**log, **_LARGE_RECORDS},
            ),
            TopicSpec(name=self.importance, partitions=shards, cleanup="delete", configs={**log, **_LARGE_RECORDS}),
            TopicSpec(name=self.assignments, partitions=shards, cleanup="compact", configs=_COMPACTED),
            TopicSpec(
                name=self.snapshots,
                partitions=shards,
                cleanup="compact",
                configs={**_COMPACTED, **_LARGE_RECORDS, "segment.bytes": str(64 << 20)},
            ),
            TopicSpec(name=self.metrics, partitions=1, cleanup="delete", configs=log),
            TopicSpec(name=self.control, partitions=1, cleanup="compact", configs=_COMPACTED),
            *(
                TopicSpec(
                    name=self.dead_letters(topic), partitions=partitions, cleanup="delete", configs=_LARGE_RECORDS
                )
                for topic, partitions in ((self.clicks, 1), (self.importance, shards), (self.assignments, shards))
            ),
        ]
