"""The rights (ACLs) that each role needs, and a check of them at the start, before anything is read or written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

from kafka.admin import MemberToRemove
from kafka.errors import GroupAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError

from streams.clients.admin import ask_admin
from streams.clients.config import KafkaConfig
from streams.errors import BrokerError
from streams.topics import Topics

__all__ = ["ROLES", "require_rights"]

# role -> topic without prefix -> the operations that it needs; each implies DESCRIBE
ROLES: Mapping[str, Mapping[str, frozenset[str]]] = {
    "replay": {
        "clicks": frozenset({"WRITE"}),
        "clicks.dlq": frozenset({"WRITE"}),
        "control": frozenset({"READ", "WRITE"}),
    },
    "agent": {
        "importance": frozenset({"READ"}),
        "assignments": frozenset({"READ", "WRITE"}),
        "sketch-snapshots": frozenset({"READ", "WRITE"}),
        "control": frozenset({"READ", "WRITE"}),
        "metrics": frozenset({"WRITE"}),
        "importance.dlq": frozenset({"WRITE"}),
    },
    "shadow": {
        "importance": frozenset({"READ"}),
        "assignments": frozenset({"READ", "WRITE"}),
        "sketch-snapshots": frozenset({"READ", "WRITE"}),
        "control": frozenset({"READ", "WRITE"}),
        "metrics": frozenset({"WRITE"}),
    },
    "frequency": {
        "clicks": frozenset({"READ"}),
        "importance": frozenset({"WRITE"}),
        "clicks.dlq": frozenset({"WRITE"}),
    },
    "train": {
        "clicks": frozenset({"READ"}),
        "assignments": frozenset({"READ"}),
        "control": frozenset({"READ"}),
        "importance": frozenset({"WRITE"}),
        "metrics": frozenset({"WRITE"}),
        "clicks.dlq": frozenset({"WRITE"}),
        "assignments.dlq": frozenset({"WRITE"}),
    },
    "publish": {"embeddings": frozenset({"WRITE"})},
    "replica": {"embeddings": frozenset({"READ"})},
    "values": {
        "assignments": frozenset({"READ"}),
        "control": frozenset({"READ"}),
        "values": frozenset({"READ", "WRITE"}),
    },
    "names": {"values": frozenset({"READ"})},
    "subscribe": {"assignments": frozenset({"READ"})},
    "compare": {"clicks": frozenset({"READ"}), "assignments": frozenset({"READ"}), "metrics": frozenset({"READ"})},
    "top": {
        "importance": frozenset({"READ"}),
        "assignments": frozenset({"READ"}),
        "metrics": frozenset({"READ"}),
    },
    "observe": {
        "clicks": frozenset({"READ"}),
        "importance": frozenset({"READ"}),
        "assignments": frozenset({"READ"}),
        "metrics": frozenset({"READ"}),
    },
}
_NOBODY = "hotstream-checks-its-rights"


def require_rights(
    config: KafkaConfig,
    roles: Iterable[str] = (),
    *,
    group: str | None = None,
    topics: Mapping[str, Set[str]] | None = None,
) -> None:
    """Checks the rights of this user, if the connection has one. Missing topics are left to other checks.

    A right to transactional ids is checked where the id is first used, by `TransactionalProducer`.

    Args:
        config: the broker.
        roles: keys of `ROLES`.
        group: a consumer group that this user must be allowed to READ; it need not exist.
        topics: further operations by the full name of a topic.

    Raises:
        BrokerError: a right is lacking, or no broker answers.
    """
    if not config.is_secured:
        return
    needed = {name: frozenset(operations) for name, operations in (topics or {}).items()}
    for role in roles:
        for topic, operations in ROLES[role].items():
            name = Topics(config.prefix).named(topic)
            needed[name] = needed.get(name, frozenset()) | operations
    described = ask_admin(config, lambda admin: admin.describe_topics(sorted(needed)))
    lacking = [right for topic in described for right in _lacking(topic, needed)]
    if group is not None and not ask_admin(config, lambda admin: _may_read(admin, group)):
        lacking.append(f"READ on group {group}")
    if lacking:
        raise BrokerError(
            f"{config.bootstrap_servers}: this user lacks {', '.join(lacking)}; have it allowed (docs/security.md)"
        )


def _lacking(topic: Mapping[str, Any], needed: Mapping[str, frozenset[str]]) -> list[str]:
    """The rights that a topic's description lacks."""
    name, operations = topic["name"], topic.get("authorized_operations")
    if topic["error_code"] == TopicAuthorizationFailedError.errno:
        allowed = set()
    elif topic["error_code"] or not operations:
        return []  # the topic is missing, or the broker does not tell
    else:
        allowed = set(operations)
    return [f"{operation} on topic {name}" for operation in sorted(needed[name] - allowed)]


def _may_read(admin: Any, group: str) -> bool:
    """Whether this user may READ a group, which need not exist.

    A group that does not exist has no description, so a member that does not exist is removed from it: Kafka demands
    READ first, of every broker, and then finds no such member. That changes nothing, whether the group exists or not.
    """
    broker = admin.describe_cluster()["brokers"][0]["broker_id"]
    try:
        removed = admin.remove_group_members(group, [MemberToRemove(member_id=_NOBODY)], group_coordinator_id=broker)
    except GroupAuthorizationFailedError:
        return False
    except KafkaError:  # READ was granted, but another broker is the group's coordinator, or it loads still
        return True
    return GroupAuthorizationFailedError not in removed.values()
