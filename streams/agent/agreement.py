"""`Agreement`: the agents of a prefix have one configuration, which the control topic records once.

Each shard's rows follow from the configuration. So agents with different ones would give one row to features of two
shards, and each would find its own digests equal.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

from streams.agent.shard_config import ShardConfig
from streams.clients.agreed_configuration import newest_of, read_configuration
from streams.clients.connector import Connector
from streams.clients.log_ends import LogEnds
from streams.clients.partition_reader import fetch_partition
from streams.clients.producer import RecordProducer
from streams.errors import ConfigError
from streams.records import AgentConfiguration, encode_configuration
from streams.topics import Topics

__all__ = ["Agreement"]


class Agreement:
    """Compares this process's configuration with the agreed one.

    Args:
        connector: the broker.
        shards: the configuration of the shards.
        group: the consumer group.
        signals: the importance that the agents count.
    """

    def __init__(self, connector: Connector, shards: ShardConfig, *, group: str, signals: Iterable[str]) -> None:
        self._connector = connector
        self._topic = Topics(connector.prefix).control
        self._checked_end = -1
        settings = {**dataclasses.asdict(shards), "group": group, "signals": sorted(signals)}
        self._mine = AgentConfiguration(number=1, settings=json.loads(json.dumps(settings)))

    def join(self, *, begins_epoch: bool = False) -> None:
        """Agrees to the recorded configuration, or records this one if there is none.

        Args:
            begins_epoch: whether to record this configuration if another one is recorded, so that the agents with the
                other one end, and all shards begin a new epoch.

        Raises:
            BrokerError: the broker does not answer.
            ConfigError: another configuration is recorded.
        """
        agreed = read_configuration(self._connector)
        if agreed is None or (begins_epoch and agreed.settings != self._mine.settings):
            agreed = self._propose(1 if agreed is None else agreed.number + 1)
        self._require(agreed)

    async def check(self, ends: LogEnds | None = None) -> None:
        """Checks that the configuration still is the agreed one.

        Args:
            ends: asks for the end of the topic, which is read only if its end has changed since the last call.

        Raises:
            ConfigError: another configuration was recorded.
        """
        if ends is not None:
            end = (await ends.fetch(self._topic, [0]))[0]
            if end == self._checked_end:
                return
            self._checked_end = end
        records = [record async for fetch in fetch_partition(self._connector, self._topic, 0) for record in fetch]
        agreed = newest_of(records, self._topic)
        if agreed is not None:
            self._require(agreed)

    def _require(self, agreed: AgentConfiguration) -> None:
        if agreed.settings != self._mine.settings:
            raise ConfigError(
                f"this agent's configuration differs from number {agreed.number}, which all agents of "
                f"{self._connector.prefix!r} have: {self._mine.describe_differences(agreed)}; start it with the same "
                "options, or with --new-epoch to replace that configuration for all shards"
            )

    def _propose(self, number: int) -> AgentConfiguration:
        """Records this configuration, and returns the one that counts: another agent may have been first."""
        self._write(dataclasses.replace(self._mine, number=number))
        agreed = read_configuration(self._connector)
        if agreed is None:
            raise ConfigError(f"{self._topic}: got no configuration, expected the one just written")
        if agreed.settings != self._mine.settings:
            self._write(agreed)  # compaction keeps the last record
        return agreed

    def _write(self, configuration: AgentConfiguration) -> None:
        key, value, headers = encode_configuration(configuration)
        with RecordProducer(self._connector) as producer:
            producer.send(self._topic, 0, value, headers, key=key)
