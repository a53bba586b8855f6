"""Creates and describes topics on a broker; `streams.topics` defines their specifications."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import AuthorizationError, KafkaError, TopicAlreadyExistsError, TopicAuthorizationFailedError

from streams.clients.connector import Connector
from streams.errors import BrokerError, TopicError
from streams.topics import Topics, TopicSpec

__all__ = [
    "TopicState",
    "connect_admin",
    "count_partitions",
    "create_topics",
    "describe_topics",
    "group_state",
    "require_known",
    "require_partitions",
]


_ASK_MS = 2000
# With a shorter `delete.retention.ms` a reader that was away for an hour, say, may miss a demotion.
_AT_LEAST = ("max.message.bytes", "delete.retention.ms")


@dataclass(frozen=True, kw_only=True)
class TopicState:
    """A topic's specification and its state on the broker.

    Attributes:
        spec: the specification.
        partitions: the number of partitions on the broker; None if the topic is missing.
        problems: the differences from the specification.
        created: whether this call created the topic.
    """

    spec: TopicSpec
    partitions: int | None
    problems: tuple[str, ...] = ()
    created: bool = False


@contextmanager
def connect_admin(connector: Connector, *, timeout_ms: int = 10_000) -> Iterator[Any]:
    """An admin client.

    Raises:
        BrokerError: no broker answers within `timeout_ms`, or it refuses a request.
    """
    admin = connector.open_admin(timeout_ms=timeout_ms)
    try:
        yield admin
    except KafkaError as error:
        raise BrokerError(
            f"{connector.bootstrap_servers}: the broker refused ({error or type(error).__name__})"
        ) from error
    finally:
        admin.close()


def _count_partitions(admin: Any, names: Iterable[str]) -> dict[str, int | None]:
    """The number of partitions of each topic; 0 for a missing one, None for one that this user may not describe."""
    described = {topic["name"]: topic for topic in admin.describe_topics(sorted(set(names)))}
    return {
        name: None if topic["error_code"] == TopicAuthorizationFailedError.errno else len(topic["partitions"])
        for name, topic in described.items()
    }


def _require_described(partitions: Mapping[str, int | None], servers: str) -> dict[str, int]:
    """The partitions of existing topics.

    Raises:
        BrokerError: this user may not describe one.
    """
    hidden = sorted(name for name, number in partitions.items() if number is None)
    if hidden:
        raise BrokerError(
            f"{servers}: this user lacks {', '.join(f'DESCRIBE on topic {name}' for name in hidden)}; have it allowed "
            "(docs/security.md)"
        )
    return {name: number for name, number in partitions.items() if number}


def _fetch(admin: Any, specs: list[TopicSpec], servers: str) -> dict[str, tuple[int, dict[str, str]]]:
    """Partitions and settings of the topics that exist, by name; no settings without the right DESCRIBE_CONFIGS."""
    partitions = _require_described(_count_partitions(admin, [spec.name for spec in specs]), servers)
    existing = sorted(partitions)
    if not existing:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in existing]
    described = admin.describe_configs(resources, config_filter="all").get("topic", {})
    settings = {name: {key: str(entry["value"]) for key, entry in described.get(name, {}).items()} for name in existing}
    return {name: (partitions[name], settings[name]) for name in existing}


def _compare(
    spec: TopicSpec, found: tuple[int, dict[str, str]] | None, command: str, *, created: bool = False
) -> TopicState:
    """Compares a topic with its specification; settings that the broker does not list are assumed to be right.

    Args:
        spec: the specification.
        found: partitions and settings; None if the topic is missing.
        command: the command that creates it.
        created: whether this process has just created it.
    """
    if found is None:
        return TopicState(spec=spec, partitions=None, problems=(f"missing; run `{command}`",))
    partitions, settings = found
    problems = []
    if partitions != spec.partitions:
        problems.append(f"{partitions} partitions, expected {spec.partitions}")
    policy = settings.get("cleanup.policy")
    if policy is not None and policy != spec.cleanup:
        problems.append(f"cleanup.policy {policy}, expected {spec.cleanup}")
    for name in _AT_LEAST:
        needed, limit = int(spec.configs.get(name, 0)), settings.get(name)
        if limit is not None and int(limit) < needed:
            problems.append(f"{name} {limit}, expected at least {needed}")
    return TopicState(spec=spec, partitions=partitions, problems=tuple(problems), created=created)


def count_partitions(connector: Connector, names: Iterable[str]) -> dict[str, int]:
    """The number of partitions of each topic, 0 for a missing one; a broker that does not answer is given up soon.

    Raises:
        BrokerError: no broker answers within 2 s, or this user may not describe one of the topics.
    """
    names = list(names)
    with connect_admin(connector, timeout_ms=_ASK_MS) as admin:
        present = _require_described(_count_partitions(admin, names), connector.bootstrap_servers)
    return {name: present.get(name, 0) for name in names}


def group_state(connector: Connector, group: str) -> str | None:
    """The state of a consumer group, as Kafka names it; None if the broker lists no such group.

    The embedded broker lists none at all.

    Raises:
        BrokerError: no broker answers, or it refuses.
    """
    with connect_admin(connector) as admin:
        states = {listed["group_id"]: str(listed.get("group_state") or "") for listed in admin.list_groups()}
    return states.get(group)


def describe_topics(connector: Connector, specs: list[TopicSpec]) -> list[TopicState]:
    """The state of each topic on the broker.

    Raises:
        BrokerError: no broker answers.
    """
    with connect_admin(connector) as admin:
        actual = _fetch(admin, specs, connector.bootstrap_servers)
    command = Topics(connector.prefix).create_command
    return [_compare(spec, actual.get(spec.name), command) for spec in specs]


def create_topics(connector: Connector, specs: list[TopicSpec], *, replication_factor: int = -1) -> list[TopicState]:
    """Creates missing topics and compares existing ones with their specifications; never changes a topic.

    Args:
        connector: the broker.
        specs: the topics.
        replication_factor: -1 for the broker's default.

    Raises:
        BrokerError: no broker answers, or the broker refuses.
    """
    with connect_admin(connector) as admin:
        present = _count_partitions(admin, [spec.name for spec in specs])
        missing = [spec for spec in specs if not present[spec.name]]
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
                pass  # another process created them first; the comparison follows below
            except AuthorizationError as error:
                raise BrokerError(
                    f"{connector.bootstrap_servers}: this user lacks CREATE on the cluster, or on the topics "
                    f"{', '.join(sorted(wanted))}; have it allowed (docs/security.md)"
                ) from error
            except KafkaError as error:
                raise BrokerError(f"topics could not be created: {error}") from error
        actual = _fetch(admin, specs, connector.bootstrap_servers)
    created = {spec.name for spec in missing}
    command = Topics(connector.prefix).create_command
    return [_compare(spec, actual.get(spec.name), command, created=spec.name in created) for spec in specs]


def require_known(connector: Connector, topic: str) -> None:
    """Checks that a topic still exists; a broker that does not answer settles nothing.

    Raises:
        TopicError: the topic is missing.
    """
    try:
        with connect_admin(connector, timeout_ms=_ASK_MS) as admin:
            partitions = _count_partitions(admin, [topic])
    except BrokerError:
        return
    if partitions[topic] == 0:
        raise TopicError(f"topic {topic!r} is missing at {connector.bootstrap_servers}: it was deleted")


def require_partitions(connector: Connector, topic: str) -> int:
    """The number of partitions of a topic that must exist.

    Raises:
        BrokerError: no broker answers, or this user may not describe the topic.
        TopicError: the topic is missing.
    """
    with connect_admin(connector) as admin:
        partitions = _require_described(_count_partitions(admin, [topic]), connector.bootstrap_servers)
    if topic not in partitions:
        command = Topics(connector.prefix).create_command
        raise TopicError(f"topic {topic!r} is missing at {connector.bootstrap_servers}; run `{command}`")
    return partitions[topic]
