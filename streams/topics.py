"""Topic names, and what each topic must look like; the only place that knows either.

Topics are created explicitly, never by accident. The number of partitions of `importance`, `assignments` and
`sketch-snapshots` is the number of shards, and is fixed for the topics' life: a feature's shard must not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from streams.clients.config import KafkaConfig
from streams.errors import BrokerError, TopicError

__all__ = [
    "TopicSpec",
    "TopicState",
    "Topics",
    "connect_admin",
    "create_topics",
    "describe_topics",
    "require_partitions",
]

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
        ]


@dataclass(frozen=True, kw_only=True)
class TopicState:
    """A specification beside what the broker has.

    Attributes:
        spec: what it must look like.
        partitions: what the broker has; None if the topic is missing.
        problems: in what it does not fit; empty if it does.
        created: whether this call created it.
    """

    spec: TopicSpec
    partitions: int | None
    problems: tuple[str, ...] = ()
    created: bool = False


@contextmanager
def connect_admin(config: KafkaConfig, *, timeout_ms: int = 10_000) -> Iterator[KafkaAdminClient]:
    """An admin client.

    Raises:
        BrokerError: nobody answers within `timeout_ms`.
    """
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=config.servers,
            bootstrap_timeout_ms=timeout_ms,
            request_timeout_ms=max(timeout_ms, 10_000),
            **config.client_arguments(),
        )
    except KafkaError as error:
        raise BrokerError(
            f"no broker answered at {config.bootstrap_servers} within {timeout_ms / 1000:.0f} s ({error}); start one "
            "with `hotstream broker`, or name yours with --bootstrap-servers"
        ) from error
    try:
        yield admin
    finally:
        admin.close()


def _fetch(admin: KafkaAdminClient, specs: list[TopicSpec]) -> dict[str, tuple[int, dict[str, str]]]:
    """Partitions and settings of those of the topics that exist."""
    existing = sorted(set(admin.list_topics()) & {spec.name for spec in specs})
    if not existing:
        return {}
    partitions = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(existing)}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in existing]
    described = admin.describe_configs(resources, config_filter="all").get("topic", {})
    settings = {name: {key: str(entry["value"]) for key, entry in described.get(name, {}).items()} for name in existing}
    return {name: (partitions[name], settings[name]) for name in existing}


def _compare(spec: TopicSpec, found: tuple[int, dict[str, str]] | None, *, created: bool = False) -> TopicState:
    """What of an existing topic does not fit (a broker that shows no settings is taken at its word)."""
    if found is None:
        return TopicState(spec=spec, partitions=None, problems=("missing; run `hotstream topics create`",))
    partitions, settings = found
    problems = []
    if partitions != spec.partitions:
        problems.append(f"{partitions} partitions, expected {spec.partitions}")
    policy = settings.get("cleanup.policy")
    if policy is not None and policy != spec.cleanup:
        problems.append(f"cleanup.policy {policy}, expected {spec.cleanup}")
    needed, limit = int(spec.configs.get("max.message.bytes", 0)), settings.get("max.message.bytes")
    if limit is not None and int(limit) < needed:
        problems.append(f"max.message.bytes {limit}, expected at least {needed}")
    return TopicState(spec=spec, partitions=partitions, problems=tuple(problems), created=created)


def describe_topics(config: KafkaConfig, specs: list[TopicSpec]) -> list[TopicState]:
    """Each specification beside what the broker has.

    Raises:
        BrokerError: nobody answers.
    """
    with connect_admin(config) as admin:
        actual = _fetch(admin, specs)
    return [_compare(spec, actual.get(spec.name)) for spec in specs]


def create_topics(config: KafkaConfig, specs: list[TopicSpec], *, replication_factor: int = -1) -> list[TopicState]:
    """Creates what is missing, and says of what exists whether it fits; never changes an existing topic.

    Args:
        config: the broker.
        specs: the topics.
        replication_factor: -1 for the broker's default.

    Raises:
        BrokerError: nobody answers, or the broker refuses.
    """
    with connect_admin(config) as admin:
        missing = [spec for spec in specs if spec.name not in set(admin.list_topics())]
        if missing:
            wanted = {
                spec.name: {
                    "num_partitions": spec.partitions,
                    "replication_factor": replication_factor,
                    "configs": {"cleanup.policy": spec.cleanup, **spec.configs},
                }
                for spec in missing
            }
            try:
                admin.create_topics(wanted, wait_for_metadata=True)
            except TopicAlreadyExistsError:
                pass  # somebody else was quicker; what is there is compared below
            except KafkaError as error:
                raise BrokerError(f"topics could not be created: {error}") from error
        actual = _fetch(admin, specs)
    created = {spec.name for spec in missing}
    return [_compare(spec, actual.get(spec.name), created=spec.name in created) for spec in specs]


def require_partitions(config: KafkaConfig, topic: str) -> int:
    """The number of partitions of a topic that must exist.

    Raises:
        BrokerError: nobody answers.
        TopicError: the topic is missing.
    """
    with connect_admin(config) as admin:
        if topic not in set(admin.list_topics()):
            raise TopicError(f"topic {topic!r} is missing at {config.bootstrap_servers}; run `hotstream topics create`")
        return len(admin.describe_topics([topic])[0]["partitions"])
