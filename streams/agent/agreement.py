"""`Agreement`: the agents of a prefix have one configuration, which the control topic records once.

Each shard's rows follow from the configuration. So agents with different ones would give one row to features of two
shards, and each would find its own digests equal.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import Iterable, Sequence

from streams.agent.shard_config import ShardConfig
from streams.clients.agreed_configuration import newest_of, read_configuration
from streams.clients.connector import Connector
from streams.clients.log_ends import LogEnds
from streams.clients.partition_reader import fetch_partition
from streams.clients.producer import RecordProducer
from streams.clients.recorded_fields import newest_fields
from streams.errors import ConfigError
from streams.keys import Field
from streams.records import AgentConfiguration, encode_configuration, encode_fields
from streams.topics import Topics

__all__ = ["Agreement"]

logger = logging.getLogger(__name__)


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
        self._fields: tuple[Field, ...] = ()
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

    def preview(self, *, begins_epoch: bool = False) -> str:
        """What `join` would do; writes nothing.

        Raises:
            BrokerError: the broker does not answer.
            ConfigError: another configuration is recorded, and it is not to be replaced.
        """
        agreed = read_configuration(self._connector)
        if agreed is None:
            return "none is recorded; this one would become number 1"
        if begins_epoch and agreed.settings != self._mine.settings:
            return f"would replace number {agreed.number}, and every shard would begin a new epoch: " + (
                self._mine.describe_differences(agreed)
            )
        self._require(agreed)
        return f"equal to number {agreed.number}, which all agents have"

    async def check(self, ends: LogEnds | None = None, fields: tuple[Field, ...] = ()) -> None:
        """Checks that the configuration still is the agreed one, and records the fields if there are more.

        Args:
            ends: asks for the end of the topic, which is read only if its end has changed since the last call.
            fields: the fields of the importance that this process has counted.

        Raises:
            ConfigError: another configuration was recorded.
        """
        if ends is not None:
            end = (await ends.fetch(self._topic, [0]))[0]
            if end == self._checked_end and fields == self._fields:
                return
            self._checked_end = end
        records = [record async for fetch in fetch_partition(self._connector, self._topic, 0) for record in fetch]
        agreed = newest_of(records, self._topic)
        if agreed is not None:
            self._require(agreed)
        if fields:
            await self._record_fields(fields, newest_fields(records))

    async def _record_fields(self, fields: tuple[Field, ...], known: tuple[Field, ...]) -> None:
        """Records the fields if these begin with those that are recorded; so the agents end with the longest list."""
        if fields != self._fields and known[: len(fields)] != fields[: len(known)]:
            logger.warning(
                "%s has the fields %s, but importance has %s: two schemas are mixed under this prefix; use another "
                "--prefix for one of them",
                self._topic, _names(known), _names(fields),
            )  # fmt: skip
        self._fields = fields
        if len(known) < len(fields) and fields[: len(known)] == known:
            await asyncio.to_thread(self._send, encode_fields(fields))

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
        self._send(encode_configuration(configuration))

    def _send(self, record: tuple[bytes, bytes, list[tuple[str, bytes | None]]]) -> None:
        key, value, headers = record
        with RecordProducer(self._connector) as producer:
            producer.send(self._topic, 0, value, headers, key=key)


def _names(fields: Sequence[Field]) -> str:
    """The names of fields, in a few words."""
    shown = ", ".join(field.name for field in fields[:3])
    return shown if len(fields) <= 3 else f"{shown} ... ({len(fields)})"
