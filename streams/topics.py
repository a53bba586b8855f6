"""Topic names, and what each topic must look like; the only place that knows either.

Topics are created explicitly, never by accident. The number of partitions of `importance`, `assignments` and
`sketch-snapshots` is the number of shards, and is fixed for the topics' life: a feature's shard must not change.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["TopicSpec", "Topics"]

_LARGE_RECORDS = {"max.message.bytes": str(8 << 20)}
# A hot set is read again by everybody who joins, so superseded changes should go early; a tombstone must stay for as
# long as a subscriber may be away (a day), or it would keep the demoted feature for ever.
_COMPACTED = {
    "segment.ms": "600000",
    "min.cleanable.dirty.ratio": "0.2",
    "delete.retention.ms": "86400000",
}


@dataclass(frozen=True, kw_only=True)
class TopicSpec:
    """What a topic must look like."""

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
        """Rows of the click log."""
        return f"{self.prefix}.clicks"

    @property
    def importance(self) -> str:
        """Scores per feature, computed from clicks."""
        return f"{self.prefix}.importance"

    @property
    def assignments(self) -> str:
        """Every change of the hot set."""
        return f"{self.prefix}.assignments"

    @property
    def snapshots(self) -> str:
        """The agents' state."""
        return f"{self.prefix}.sketch-snapshots"

    @property
    def metrics(self) -> str:
        """What the processes say of themselves."""
        return f"{self.prefix}.metrics"

    @staticmethod
    def dead_letters(topic: str) -> str:
        """Where records of `topic` go that cannot be believed."""
        return f"{topic}.dlq"

    def specs(self, *, click_partitions: int = 1, shards: int = 1) -> list[TopicSpec]:
        """All topics that `hotstream topics create` makes."""
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
            TopicSpec(name=self.dead_letters(self.clicks), partitions=1, cleanup="delete", configs=_LARGE_RECORDS),
            TopicSpec(
                name=self.dead_letters(self.importance),
                partitions=shards,
                cleanup="delete",
                configs=_LARGE_RECORDS,
            ),
            TopicSpec(
                name=self.dead_letters(self.assignments),
                partitions=shards,
                cleanup="delete",
                configs=_LARGE_RECORDS,
            ),
        ]
