"""What an agent does when a topic is deleted, made again or extended while it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from streams.agent.agreement import Agreement
from streams.agent.ownership import Ownership
from streams.clients.topic_identity import TopicChange, TopicIdentity
from streams.errors import TopicError
from streams.topics import Topics

__all__ = ["follow_changes", "ids_of"]

logger = logging.getLogger(__name__)


def ids_of(identities: Mapping[str, TopicIdentity]) -> dict[str, str]:
    """The ids of topics by name; empty where the broker has none."""
    return {name: identity.topic_id or "" for name, identity in identities.items()}


async def follow_changes(
    changes: Iterable[TopicChange], topics: Topics, ownership: Ownership, agreement: Agreement
) -> None:
    """Continues with topics that were made again.

    `importance`: its records are counted from the oldest one, into the present hot set. `assignments`: the whole table
    is written again. `sketch-snapshots`: new ones are written. `control`: the configuration is recorded again.

    Raises:
        ConfigError: another agent recorded another configuration first.
        TopicError: a topic was deleted, or the number of shards has changed.
    """
    for change in changes:
        _require_possible(change, topics)
        logger.warning("%s; the agent goes on", change)
        if change.topic == topics.control:
            await asyncio.to_thread(agreement.join)
        elif change.now is not None and change.kind == "made again":
            await ownership.begin_again(change.topic, change.now.topic_id or "")


def _require_possible(change: TopicChange, topics: Topics) -> None:
    if change.now is None:
        raise TopicError(f"{change}; run `{topics.create_command}`, and start the agent again: it goes on")
    sharded = (topics.importance, topics.assignments, topics.snapshots)
    if change.topic in sharded and change.now.partitions != change.before.partitions:
        raise TopicError(
            f"{change}; the number of shards must not change: stop all processes, delete {', '.join(sharded)}, run "
            f"`{topics.create_command} --shards N`, and start again"
        )
