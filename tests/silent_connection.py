"""A connection that has died without a word: what a client of aiokafka sends through it is never answered."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.util import wait_for

__all__ = ["find_end"]

_PARTITION, _NODE = TopicPartition("topic", 0), 1
_SPEED = 1000  # times are so many times shorter


class _Connection:
    """Answers nothing until it has been closed, and made again."""

    def __init__(self, end: int, timeout_s: float) -> None:
        self._end, self._timeout_s = end, timeout_s
        self._is_dead = True

    def connected(self) -> bool:
        return True

    def close(self, **_: object) -> None:
        self._is_dead = False

    def send(self, *_: object, **__: object) -> Any:
        answer = asyncio.get_running_loop().create_future()
        if not self._is_dead:
            answer.set_result(SimpleNamespace(API_VERSION=1, topics=[("topic", [(0, 0, -1, self._end)])]))
        return wait_for(answer, self._timeout_s)


async def find_end(consumer: Any, end: int) -> int:
    """The end of a partition that a consumer, not connected, finds if it makes its dead connection again.

    Raises:
        KafkaTimeoutError: it does not.
    """
    client = consumer._client  # noqa: SLF001
    client.cluster._partitions = {_PARTITION.topic: {_PARTITION.partition: SimpleNamespace(leader=_NODE)}}  # noqa: SLF001
    timeout_s = client._request_timeout_ms / 1000 / _SPEED  # noqa: SLF001
    client._conns[_NODE, ConnectionGroup.DEFAULT] = _Connection(end, timeout_s)  # noqa: SLF001
    fetcher = Fetcher(client, SubscriptionState(), retry_backoff_ms=0)
    try:
        found = await fetcher.end_offsets([_PARTITION], consumer._request_timeout_ms / _SPEED)  # noqa: SLF001
    finally:
        client._conns.clear()  # noqa: SLF001
        await fetcher.close()
        await consumer.stop()
    return found[_PARTITION]
