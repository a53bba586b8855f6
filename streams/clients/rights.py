"""The rights (ACLs) that each role needs, and a check of them at the start, before anything is read or written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kafka.errors import GroupAuthorizationFailedError, RetriableError, TopicAuthorizationFailedError

from streams.clients.admin import connect_admin
from streams.clients.config import KafkaConfig
from streams.errors import BrokerError
from streams.topics import Topics

__all__ = ["ROLES", "require_rights"]

# role -> topic without prefix -> the operations that it needs; each implies DESCRIBE
ROLES: Mapping[str, Mapping[str, frozenset[str]]] = {
    "replay": {"clicks": frozenset({"READ", "WRITE"}), "clicks.dlq": frozenset({"WRITE"})},
    "resume": {"clicks.dlq": frozenset({"READ"})},
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
        "importance": frozenset({"WRITE"}),
        "metrics": frozenset({"WRITE"}),
        "clicks.dlq": frozenset({"WRITE"}),
        "assignments.dlq": frozenset({"WRITE"}),
    },
    "subscribe": {"assignments": frozenset({"READ"})},
}


def require_rights(config: KafkaConfig, roles: Iterable[str], *, group: str | None = None) -> None:
    """Checks the rights of this user. Missing topics are left to other checks.

    A group that does not exist yet tells no more than that it may be described.

    Args:
        config: the broker.
        roles: keys of `ROLES`.
        group: a consumer group that this user must be allowed to READ.

    Raises:
        BrokerError: a right is lacking, or no broker answers.
    """
    needed: dict[str, frozenset[str]] = {}
    for role in roles:
        for topic, operations in ROLES[role].items():
            name = Topics(config.prefix).named(topic)
            needed[name] = needed.get(name, frozenset()) | operations
    with connect_admin(config) as admin:
        lacking = [right for topic in admin.describe_topics(sorted(needed)) for right in _lacking(topic, needed)]
        if group is not None and not _may_read(admin, group):
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
    try:
        described = admin.describe_groups([group])[group]
    except GroupAuthorizationFailedError:
        return False
    except RetriableError:  # a cluster that has had no group yet
        return True
    if described["error"] is not None:
        return GroupAuthorizationFailedError.__name__ not in described["error"]
    return "READ" in (described.get("authorized_operations") or ["READ"])
