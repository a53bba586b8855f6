"""Topic names and the required settings of each topic; no other module defines either.

Topics are created explicitly, never by the broker. The number of partitions of `importance`, `assignments` and
`sketch-snapshots` is the number of shards. It is fixed for the lifetime of the topics, because the shard of a feature
must not change.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["TOMBSTONES_KEPT_S", "TopicSpec", "Topics"]

TOMBSTONES_KEPT_S = 86_400

_SHADOW = ".shadow."
_DEFAULT_PREFIX = "hotstream"
_LOG = {"retention.ms": str(7 * 86_400_000), "compression.type": "producer"}
_LARGE_RECORDS = {"max.message.bytes": str(8 << 20)}
# A record keeps its writer's codec in topics of many bytes, whatever the broker's default is: every reader of hotstream
# knows all codecs. What other programs read has none, so that any client can, without a further library.
_READABLE = {"compression.type": "uncompressed"}
# Every new subscriber reads the whole topic, so compaction must remove superseded changes early. A tombstone must stay
# as long as a subscriber may be disconnected (a day); a subscriber that misses it keeps the demoted feature for ever.
_COMPACTED = {
    "segment.ms": "600000",
    "min.cleanable.dirty.ratio": "0.2",
    "delete.retention.ms": str(TOMBSTONES_KEPT_S * 1000),
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
    """The topic names under one prefix.

    The prefix `P.shadow.NAME` is a shadow's: its agents read the importance of `P`, and write topics of their own.
    """

    prefix: str = _DEFAULT_PREFIX

    def shadow(self, name: str) -> Topics:
        """The topics of a shadow of this prefix."""
        return Topics(f"{self._source}{_SHADOW}{name}")

    @property
    def is_shadow(self) -> bool:
        """Whether clicks and importance are another prefix's."""
        return _SHADOW in self.prefix

    @property
    def _source(self) -> str:
        return self.prefix.partition(_SHADOW)[0]

    @property
    def clicks(self) -> str:
        """Batches of rows of the click log."""
        return f"{self._source}.clicks"

    @property
    def importance(self) -> str:
        """Scores of features, computed from clicks."""
        return f"{self._source}.importance"

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

    @property
    def values(self) -> str:
        """The values of hot features of kind `hash`; it exists if `hotstream values` was used."""
        return f"{self.prefix}.values"

    def values_spec(self) -> TopicSpec:
        """The settings of the topic `values`, which `hotstream topics create` does not create."""
        return TopicSpec(name=self.values, partitions=1, cleanup="compact", configs=_COMPACTED)

    @property
    def embeddings(self) -> str:
        """The rows of a trainer's embedding; it exists if `hotstream topics create --embeddings` was used."""
        return f"{self.prefix}.embeddings"

    def embeddings_spec(self, *, shards: int) -> TopicSpec:
        """The settings of the topic `embeddings`, whose partitions are the shards."""
        return TopicSpec(
            name=self.embeddings,
            partitions=shards,
            cleanup="compact",
            configs={**_COMPACTED, **_LARGE_RECORDS, "segment.bytes": str(64 << 20)},
        )

    def named(self, topic: str) -> str:
        """The full name of a topic whose name without a prefix is given, such as `clicks` or `clicks.dlq`."""
        is_input = topic.split(".", maxsplit=1)[0] in ("clicks", "importance")
        return f"{self._source if is_input else self.prefix}.{topic}"

    def replay_id(self, name: str) -> str:
        """The transactional id of the replay `name`; all begin with `replay_id("")`."""
        return f"{self.prefix}.replay.{name}"

    @staticmethod
    def dead_letters(topic: str) -> str:
        """The topic of the invalid records of `topic`."""
        return f"{topic}.dlq"

    @property
    def create_command(self) -> str:
        """The command that creates these topics, for messages."""
        command = "topics create"
        if self.is_shadow:  # its agents create its topics
            command = f"agent --shadow {self.prefix.partition(_SHADOW)[2]}"
        return self.command(command)

    def command(self, words: str) -> str:
        """The command `hotstream WORDS` with the prefix in use, for messages."""
        return f"hotstream {words}" + ("" if self._source == _DEFAULT_PREFIX else f" --prefix {self._source}")

    def specs(self, *, click_partitions: int = 1, shards: int = 1) -> list[TopicSpec]:
        """All topics that `hotstream topics create` creates; of a shadow, those that its agents write.

        Args:
            click_partitions: partitions of `clicks`.
            shards: partitions of `importance`, `assignments` and `sketch-snapshots`.
        """
        inputs = [
            TopicSpec(name=name, partitions=partitions, cleanup="delete", configs={**_LOG, **_LARGE_RECORDS})
            for name, partitions in ((self.clicks, click_partitions), (self.importance, shards))
        ]
        letters = ((self.clicks, 1), (self.importance, shards), (self.assignments, shards))
        dead_letters = [
            TopicSpec(name=self.dead_letters(topic), partitions=partitions, cleanup="delete", configs=_LARGE_RECORDS)
            for topic, partitions in letters
        ]
        written = self._written_by_agents(shards)
        return written if self.is_shadow else [*inputs, *written, *dead_letters]

    def _written_by_agents(self, shards: int) -> list[TopicSpec]:
        return [
            TopicSpec(name=self.assignments, partitions=shards, cleanup="compact", configs={**_COMPACTED, **_READABLE}),
            TopicSpec(
                name=self.snapshots,
                partitions=shards,
                cleanup="compact",
                configs={**_COMPACTED, **_LARGE_RECORDS, "segment.bytes": str(64 << 20)},
            ),
            TopicSpec(name=self.metrics, partitions=1, cleanup="delete", configs={**_LOG, **_READABLE}),
            TopicSpec(name=self.control, partitions=1, cleanup="compact", configs={**_COMPACTED, **_READABLE}),
        ]
