"""`EndProbe`: asks the broker every second for the ends of a topic, whatever the other clients of the process do."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError, RetriableError

from streams.clients.connector import Connector
from streams.errors import BrokerError

__all__ = ["EndProbe"]

logger = logging.getLogger(__name__)

_ASK_MS = 1000
_CLOSE_MS = 500
_END_S = 3.0


class EndProbe:
    """A thread with a connection of its own; its answers and failures do not count as those of the other clients.

    Args:
        connector: the broker.
        topic: the topic.
        num_partitions: its number of partitions.
        on_answer: called with the end of each partition after each answer, in the thread.
        interval_s: the time between two requests.
    """

    def __init__(
        self,
        connector: Connector,
        topic: str,
        num_partitions: int,
        on_answer: Callable[[dict[int, int]], None],
        *,
        interval_s: float = 1.0,
    ) -> None:
        self._connector, self._on_answer, self._interval_s = connector, on_answer, interval_s
        self._partitions = [TopicPartition(topic, number) for number in range(num_partitions)]
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="end-probe", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, or leaves it behind if it waits for the broker."""
        self._is_ending.set()
        self._thread.join(_END_S)

    def _work(self) -> None:
        consumer = None
        try:
            while not self._is_ending.is_set():
                consumer = self._ask(consumer)
                self._is_ending.wait(self._interval_s)
        finally:
            _close(consumer)

    def _ask(self, consumer: Any) -> Any:
        """Asks once; returns the consumer for the next time, or None to connect again."""
        try:
            if consumer is None:
                consumer = self._connector.open_consumer()
            ends = consumer.end_offsets(self._partitions, timeout_ms=_ASK_MS)
        except RetriableError:
            return consumer  # no answer; the waits of the process's other clients are what is logged
        except (BrokerError, KafkaError) as error:
            logger.debug("no ends of %s: %s", self._partitions[0].topic, error)  # the other clients report the reason
            _close(consumer)
            return None
        self._on_answer({partition.partition: end for partition, end in ends.items()})
        return consumer


def _close(consumer: Any) -> None:
    if consumer is not None:
        with suppress(KafkaError):  # it is gone either way
            consumer.close(autocommit=False, timeout_ms=_CLOSE_MS)
