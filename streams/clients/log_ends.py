"""`LogEnds`: where partitions end, for coroutines that ask often."""

from __future__ import annotations

from collections.abc import Iterable

from streams.clients.connector import Connector

__all__ = ["LogEnds"]


class LogEnds:
    """Asks the broker for the ends of partitions over one connection.

    The embedded broker lists the first record of its last batch, so its answer may be too low; never too high.

    Args:
        connector: the broker.
    """

    def __init__(self, connector: Connector) -> None:
        self._consumer = connector.create_async_consumer()

    async def start(self) -> None:
        """Connects."""
        await self._consumer.start()

    async def stop(self) -> None:
        """Disconnects."""
        await self._consumer.stop()

    async def fetch(self, topic: str, numbers: Iterable[int]) -> dict[int, int]:
        """The end of each of a topic's partitions.

        Raises:
            KafkaError: the broker does not answer, or a partition does not exist.
        """
        from aiokafka import TopicPartition  # noqa: PLC0415  the processes without coroutines do without aiokafka

        logs = {number: TopicPartition(topic, number) for number in numbers}
        listed = await self._consumer.end_offsets(list(logs.values())) if logs else {}
        return {number: listed[log] for number, log in logs.items()}
