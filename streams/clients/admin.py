"""Creates and describes topics on a broker; `streams.topics` defines their specifications."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import AuthorizationError, KafkaError, TopicAlreadyExistsError, TopicAuthorizationFailedError

from streams.clients.connector import Connector
from streams.clients.patience import may_pass, wait_for_answer
from streams.errors import BrokerError, TopicError
from streams.topics import Topics, TopicSpec

__all__ = [
    "TopicState",
    "ask_admin",
    "count_partitions",
    "create_topics",
    "describe_group",
    "describe_topics",
    "require_known",
    "require_partitions",
]


_CONNECT_MS = 10_000
_ASK_MS = 2000
# With a shorter `delete.retention.ms` a reader that was away for an hour, say, may miss a demotion.
_AT_LEAST = ("max.message.bytes", "delete.retention.ms")

Result = TypeVar("Result")


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


def ask_admin(connector: Connector, request: Callable[[Any], Result], *, timeout_ms: int = _CONNECT_MS) -> Result:
    """The result of a request of an admin client, repeated while the broker that has been reached does not answer.

    Args:
        connector: the broker.
        request: asks the client; it is called again from its beginning.
        timeout_ms: how long to try to connect; with a shorter time than the default the request is made once.

    Raises:
        BrokerError: no broker answers within `timeout_ms`, it refuses, or it does not answer and patience has ended.
    """
    admin = connector.open_admin(timeout_ms=timeout_ms)
    try:
        if timeout_ms < _CONNECT_MS:
            return request(admin)
        return wait_for_answer(lambda: request(admin), connector.waits)
    except KafkaError as error:
        what = "did not answer" if may_pass(error) else "refused"
        raise BrokerError(
            f"{connector.bootstrap_servers}: the broker {what} ({error or type(error).__name__})"
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
    counted = ask_admin(connector, lambda admin: _count_partitions(admin, names), timeout_ms=_ASK_MS)
    present = _require_described(counted, connector.bootstrap_servers)
    return {name: present.get(name, 0) for name in names}


def describe_group(connector: Connector, group: str) -> tuple[str, int]:
    """The state of a consumer group, as Kafka names it, and the number of its members.

    Raises:
        BrokerError: no broker answers, or it refuses.
    """
    described = ask_admin(connector, lambda admin: admin.describe_groups([group]))[group]
    return str(described["group_state"]), len(described["members"])


def describe_topics(connector: Connector, specs: list[TopicSpec]) -> list[TopicState]:
    """The state of each topic on the broker.

    Raises:
        BrokerError: no broker answers.
    """
    actual = ask_admin(connector, lambda admin: _fetch(admin, specs, connector.bootstrap_servers))
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
    names, servers, created = [spec.name for spec in specs], connector.bootstrap_servers, set[str]()

    def create(admin: Any) -> dict[str, tuple[int, dict[str, str]]]:
        present = _count_partitions(admin, names)
        missing = [spec for spec in specs if not present[spec.name]]
        created.update(spec.name for spec in missing)  # also by an attempt without an answer
        if missing:
            _create(admin, missing, servers, replication_factor)
        return _fetch(admin, specs, servers)

    actual = ask_admin(connector, create)
    command = Topics(connector.prefix).create_command
    return [_compare(spec, actual.get(spec.name), command, created=spec.name in created) for spec in specs]


def _create(admin: Any, missing: list[TopicSpec], servers: str, replication_factor: int) -> None:
    """Creates topics.

    Raises:
        BrokerError: the broker refuses.
        KafkaError: the broker does not answer.
    """
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
        pass  # another process created them first; the comparison follows
    except AuthorizationError as error:
        raise BrokerError(
            f"{servers}: this user lacks CREATE on the cluster, or on the topics {', '.join(sorted(wanted))}; have it "
            "allowed (docs/security.md)"
        ) from error
    except KafkaError as error:
        if may_pass(error):
            raise
        raise BrokerError(f"topics could not be created: {error}") from error


def require_known(connector: Connector, topic: str) -> None:
    """Checks that a topic still exists; a broker that does not answer settles nothing.

    Raises:
        TopicError: the topic is missing.
    """
    try:
        partitions = ask_admin(connector, lambda admin: _count_partitions(admin, [topic]), timeout_ms=_ASK_MS)
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
    counted = ask_admin(connector, lambda admin: _count_partitions(admin, [topic]))
    partitions = _require_described(counted, connector.bootstrap_servers)
    if topic not in partitions:
        command = Topics(connector.prefix).create_command
        raise TopicError(f"topic {topic!r} is missing at {connector.bootstrap_servers}; run `{command}`")
    return partitions[topic]
