"""Topics on a broker: created, described, and counted; what they must look like is `streams.topics'` business."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError

from streams.clients.connector import Connector
from streams.errors import BrokerError, TopicError
from streams.topics import TopicSpec

__all__ = [
    "TopicState",
    "connect_admin",
    "create_topics",
    "describe_topics",
    "require_partitions",
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
def connect_admin(connector: Connector, *, timeout_ms: int = 10_000) -> Iterator[Any]:
    """An admin client.

    Raises:
        BrokerError: nobody answers within `timeout_ms`.
    """
    admin = connector.open_admin(timeout_ms=timeout_ms)
    try:
        yield admin
    finally:
        admin.close()


def _fetch(admin: Any, specs: list[TopicSpec]) -> dict[str, tuple[int, dict[str, str]]]:
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


def describe_topics(connector: Connector, specs: list[TopicSpec]) -> list[TopicState]:
    """Each specification beside what the broker has.

    Raises:
        BrokerError: nobody answers.
    """
    with connect_admin(connector) as admin:
        actual = _fetch(admin, specs)
    return [_compare(spec, actual.get(spec.name)) for spec in specs]


def create_topics(connector: Connector, specs: list[TopicSpec], *, replication_factor: int = -1) -> list[TopicState]:
    """Creates what is missing, and says of what exists whether it fits; never changes an existing topic.

    Args:
        connector: the broker.
        specs: the topics.
        replication_factor: -1 for the broker's default.

    Raises:
        BrokerError: nobody answers, or the broker refuses.
    """
    with connect_admin(connector) as admin:
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


def require_partitions(connector: Connector, topic: str) -> int:
    """The number of partitions of a topic that must exist.

    Raises:
        BrokerError: nobody answers.
        TopicError: the topic is missing.
    """
    with connect_admin(connector) as admin:
        if topic not in set(admin.list_topics()):
            raise TopicError(
                f"topic {topic!r} is missing at {connector.bootstrap_servers}; run `hotstream topics create`"
            )
        return len(admin.describe_topics([topic])[0]["partitions"])
