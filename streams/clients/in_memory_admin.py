"""The admin client of an `InMemoryBroker`: the methods of kafka-python's that hotstream calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from kafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError

from streams.clients.in_memory_clients import Client

__all__ = ["Admin"]


class Admin(Client):
    """Creates and describes topics like a `kafka.admin.KafkaAdminClient`."""

    def list_topics(self) -> list[str]:
        """The topics' names."""
        self._ask()
        return list(self._broker.topics)

    def describe_topics(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Error codes, names, ids and partitions of topics."""
        with self._broker.lock:
            self._ask()
            topics, ids = self._broker.topics, self._broker.topic_ids
            return [
                {
                    "error_code": 0 if name in topics else UnknownTopicOrPartitionError.errno,
                    "name": name,
                    "topic_id": str(ids.get(name, UUID(int=0))),
                    "partitions": [{"partition": number} for number in range(len(topics.get(name, ())))],
                }
                for name in names
            ]

    def describe_configs(self, resources: Sequence[Any], *, config_filter: str = "all") -> dict[str, Any]:
        """The settings that topics were created with."""
        del config_filter
        self._ask()
        configs = {resource.name: self._broker.configs[resource.name] for resource in resources}
        return {
            "topic": {
                name: {key: {"value": value} for key, value in settings.items()} for name, settings in configs.items()
            }
        }

    def create_topics(self, wanted: Mapping[str, Mapping[str, Any]], *, wait_for_metadata: bool = True) -> None:
        """Creates topics.

        Raises:
            TopicAlreadyExistsError: one of them exists.
        """
        del wait_for_metadata
        self._ask()
        if existing := set(wanted) & set(self._broker.topics):
            raise TopicAlreadyExistsError(min(existing))
        self._broker.create(wanted)

    def describe_groups(self, groups: Sequence[str]) -> dict[str, dict[str, Any]]:
        """No group ever has a member: the clients assign partitions themselves."""
        self._check()
        return {group: {"group_state": "Dead", "members": []} for group in groups}

    def close(self) -> None:
        """Does nothing: there is no connection."""
