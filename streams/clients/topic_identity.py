"""Which topic a name stands for. A topic that was deleted and made again has its old name and another id (KIP-516).

Offsets, checkpoints, snapshots and marks refer to one topic, not to its name. So a process reads the identities of its
topics when it starts (`require_topics`), keeps them beside the offsets, and compares them later (`compare_topics`,
`TopicWatch`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import TracebackType
from typing import Any, Literal
from uuid import UUID

from kafka.errors import KafkaError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError

from streams.clients.admin import ask_admin
from streams.clients.connector import Connector
from streams.errors import BrokerError, TopicError
from streams.topics import Topics

__all__ = ["TopicChange", "TopicIdentity", "TopicWatch", "compare_topics", "require_topics"]

logger = logging.getLogger(__name__)

Kind = Literal["deleted", "made again", "partitions added"]

_INTERVAL_S = 3.0  # a deletion is reported after two checks: within 10 s, the time of a check included
_CLOSE_TIMEOUT_S = 1.0


@dataclass(frozen=True, kw_only=True)
class TopicIdentity:
    """A topic as the broker describes it.

    Attributes:
        topic_id: 32 hex digits; None if the broker has no topic ids (before Kafka 2.8).
        partitions: the number of partitions.
    """

    topic_id: str | None
    partitions: int


@dataclass(frozen=True, kw_only=True)
class TopicChange:
    """A difference between a topic as it was known and as it is.

    Attributes:
        topic: the name.
        kind: `deleted`; `made again`: another topic of the same name, with any number of partitions; or
            `partitions added`.
        before: the topic as it was known.
        now: the topic as it is; None if it is deleted.
    """

    topic: str
    kind: Kind
    before: TopicIdentity
    now: TopicIdentity | None

    def __str__(self) -> str:
        if self.now is None:
            return f"topic {self.topic} (id {self.before.topic_id or 'unknown'}) was deleted"
        if self.kind == "made again":
            old, new = (
                identity.topic_id or f"{identity.partitions} partitions" for identity in (self.before, self.now)
            )
            return f"topic {self.topic} was deleted and made again (was {old}, is {new})"
        return f"topic {self.topic} has {self.now.partitions} partitions, it had {self.before.partitions}"


@dataclass
class _Description:
    """The answer of a broker: the topics that exist, do not exist, and may not be described."""

    found: dict[str, TopicIdentity] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)


def _describe(admin: Any, names: Iterable[str]) -> _Description:
    """Describes topics in one request; one with another error than these three, such as no leader, is left out."""
    description = _Description()
    for topic in admin.describe_topics(sorted(set(names))):
        name, code = topic["name"], topic["error_code"]
        if code == TopicAuthorizationFailedError.errno:
            description.hidden.add(name)
        elif code == UnknownTopicOrPartitionError.errno:
            description.missing.add(name)
        elif not code:
            number = UUID(str(topic.get("topic_id") or UUID(int=0)))
            identity = TopicIdentity(topic_id=number.hex if number.int else None, partitions=len(topic["partitions"]))
            description.found[name] = identity
    return description


def compare_topics(before: Mapping[str, TopicIdentity], now: Mapping[str, TopicIdentity | None]) -> list[TopicChange]:
    """The changes of topics that are in both mappings; `now` has None for a topic that does not exist.

    Without ids only the numbers of partitions are compared: fewer of them are another topic.
    """
    changes = [_compare(name, known, now[name]) for name, known in before.items() if name in now]
    return [change for change in changes if change is not None]


def _compare(name: str, before: TopicIdentity, now: TopicIdentity | None) -> TopicChange | None:
    kind: Kind
    if now is None:
        kind = "deleted"
    elif now.partitions < before.partitions or _is_other(before.topic_id, now.topic_id):
        kind = "made again"
    elif now.partitions > before.partitions:
        kind = "partitions added"
    else:
        return None
    return TopicChange(topic=name, kind=kind, before=before, now=now)


def _is_other(before: str | None, now: str | None) -> bool:
    return before is not None and now is not None and before != now


def require_topics(connector: Connector, required: Iterable[str]) -> dict[str, TopicIdentity]:
    """The identities of topics that must exist, after a check of the partitions of all topics under the prefix.

    `importance`, `assignments` and `sketch-snapshots` must have equally many partitions, `control` and `metrics` one.
    Topics are left out of this comparison that do not exist or that this user may not describe, but for the required.

    Args:
        connector: the broker, with the prefix.
        required: full names.

    Raises:
        BrokerError: no broker answers, or this user may not describe a required topic.
        TopicError: a required topic is missing, or numbers of partitions differ.
    """
    topics, wanted = Topics(connector.prefix), sorted(set(required))
    shards, single = (topics.importance, topics.assignments, topics.snapshots), (topics.control, topics.metrics)
    description = ask_admin(connector, lambda admin: _describe(admin, [*wanted, *shards, *single]))
    servers, found = connector.bootstrap_servers, description.found
    if hidden := [f"DESCRIBE on topic {name}" for name in wanted if name in description.hidden]:
        raise BrokerError(f"{servers}: this user lacks {', '.join(hidden)}; have it allowed (docs/security.md)")
    for name in wanted:
        if name not in found:
            raise TopicError(f"topic {name!r} is missing at {servers}; run `{topics.create_command}`")
    _require_equal({name: found[name].partitions for name in shards if name in found}, topics.create_command)
    for name in single:
        if name in found and found[name].partitions != 1:
            raise TopicError(
                f"topic {name} has {found[name].partitions} partitions, expected 1; delete it, and run "
                f"`{topics.create_command}`"
            )
    if any(found[name].topic_id is None for name in wanted):
        _log_missing_ids(servers)
    return {name: found[name] for name in wanted}


def _require_equal(partitions: Mapping[str, int], command: str) -> None:
    if len(set(partitions.values())) > 1:
        listed = ", ".join(f"{name} has {number}" for name, number in partitions.items())
        raise TopicError(
            f"partitions: {listed}; expected one number, that of the shards, which must not change. Stop all "
            f"processes, delete these topics, run `{command} --shards N`, and start again: a trainer keeps its model"
        )


@cache
def _log_missing_ids(servers: str) -> None:
    logger.info("%s: no topic ids (Kafka has them since 2.8); topics that are made again are not noticed", servers)


class TopicWatch:
    """Compares topics with what was known of them, every few seconds in its own thread and with its own connection.

    Guarantees: each change is reported once; a deletion only if two checks in a row miss the topic. While no broker
    answers, nothing is reported; the checks continue when it is back.

    Args:
        connector: the broker.
        known: the topics as they are known, by name.
        interval_s: the time between two checks.
    """

    def __init__(
        self, connector: Connector, known: Mapping[str, TopicIdentity], *, interval_s: float = _INTERVAL_S
    ) -> None:
        self._connector = connector
        self._known = dict(known)
        self._interval_s = interval_s
        self._missing: set[str] = set()
        self._deleted: set[str] = set()
        self._found: list[TopicChange] = []
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, name="topic watch", daemon=True)
        self._thread.start()

    def __enter__(self) -> TopicWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the checks; one that waits for a broker ends later."""
        self._ends.set()
        if self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_TIMEOUT_S)

    def take(self) -> list[TopicChange]:
        """The changes found since the last call; does not ask the broker."""
        if self._failure is not None:
            raise self._failure
        if not self._found:  # nearly always
            return []
        with self._lock:
            found, self._found = self._found, []
        return found

    def require_unchanged(self) -> None:
        """Ends the wait for a topic that is no longer there; does not ask the broker.

        Raises:
            BrokerError: the next `take` has changes.
        """
        if self._found:
            raise BrokerError(f"{self._connector.bootstrap_servers}: {self._found[0]}")

    def check(self) -> list[TopicChange]:
        """Asks the broker now, and returns the changes since the last call; one missing topic is a deletion.

        Raises:
            BrokerError: no broker answers.
        """
        description = ask_admin(self._connector, lambda admin: _describe(admin, self._known))
        self._missing |= description.missing
        self._note(description)
        return self.take()

    def _watch(self) -> None:
        admin = None
        try:
            while not self._ends.wait(self._interval_s):
                admin = self._look(admin)
        except BaseException as error:  # noqa: BLE001  the next `take` raises it
            self._failure = error
        if admin is not None:
            admin.close()

    def _look(self, admin: Any) -> Any:
        """One check; returns the client for the next one, None if no broker answered."""
        try:
            admin = admin or self._connector.open_admin()
            self._note(_describe(admin, self._known))
        except (BrokerError, KafkaError) as error:
            logger.debug("topics were not compared: %s", error or type(error).__name__)  # other clients report it
            if admin is not None:
                admin.close()
            return None
        return admin

    def _note(self, description: _Description) -> None:
        """Adds the changes, and what is new to what is known."""
        with self._lock:
            gone = (description.missing & self._missing) - self._deleted
            self._missing, now = description.missing, {**description.found, **dict.fromkeys(gone)}
            self._found += compare_topics(self._known, now)
            self._deleted = (self._deleted | gone) - set(description.found)
            for name in description.found.keys() & self._known.keys():
                seen, known = description.found[name], self._known[name]
                self._known[name] = replace(seen, topic_id=seen.topic_id or known.topic_id)  # an answer may lack it
