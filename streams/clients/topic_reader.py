"""`TopicReader`: reads all partitions of a topic, without a consumer group or commits."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError

from streams.clients.connector import Connector
from streams.clients.partition_reader import is_at_end
from streams.clients.patience import answers, wait_for_answer
from streams.clients.refusals import explain_refusal
from streams.errors import BrokerError, TopicError
from streams.topics import Topics

__all__ = ["TopicReader"]


class TopicReader:
    """Reads a topic from its oldest record, or from offsets given to `seek`.

    Args:
        connector: the broker.
        topic: the topic, which must exist.
        max_poll_records: the largest number of records that a `poll` returns.

    Attributes:
        partitions: the partition numbers, in order.

    Raises:
        BrokerError: no broker answers within 10 s.
        TopicError: the topic is missing.
    """

    def __init__(self, connector: Connector, topic: str, *, max_poll_records: int = 10_000) -> None:
        self._servers, self._topic, self._waits = connector.bootstrap_servers, topic, connector.waits
        self._consumer = connector.open_consumer(max_poll_records=max_poll_records)
        numbers = self._find_partitions()
        if not numbers:
            self.close()
            command = Topics(connector.prefix).create_command
            raise TopicError(f"topic {topic!r} is missing at {self._servers}; run `{command}`")
        self.partitions = tuple(sorted(numbers))
        self._assigned = [TopicPartition(topic, number) for number in self.partitions]
        self._consumer.assign(self._assigned)
        self._consumer.seek_to_beginning(*self._assigned)

    def _find_partitions(self) -> set[int]:
        try:
            return wait_for_answer(lambda: self._consumer.partitions_for_topic(self._topic), self._waits) or set()
        except KafkaError as error:
            self.close()
            raise BrokerError(
                f"{self._servers}: {self._topic}: {explain_refusal(error, 'READ', self._topic)}"
            ) from error

    def close(self) -> None:
        """Disconnects."""
        self._consumer.close(autocommit=False, timeout_ms=2000)

    def __enter__(self) -> TopicReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Continues from these offsets, by partition."""
        for number, offset in offsets.items():
            self._consumer.seek(TopicPartition(self._topic, number), offset)

    def poll(self, timeout_ms: int = 100) -> dict[int, list[Any]]:
        """The next records by partition, in order; waits at most `timeout_ms` for the first.

        A broker that does not answer has no records; the log reports it.

        Raises:
            BrokerError: the broker refuses.
        """
        try:
            fetched = self._consumer.poll(timeout_ms=timeout_ms)
        except KafkaError as error:
            reason = explain_refusal(error, "READ", self._topic)
            raise BrokerError(f"{self._servers}: reading {self._topic} failed ({reason})") from error
        if fetched:
            self._waits.note_answer()
        elif self._waits.is_suspected:
            answers(self._consumer, self._assigned, self._waits)
        return {partition.partition: records for partition, records in fetched.items()}

    def positions(self) -> dict[int, int]:
        """The offset of the next record of each partition."""
        return {partition.partition: self._consumer.position(partition) for partition in self._assigned}

    def known_end(self, partition: int) -> int | None:
        """The end of a partition that the last fetch reported; None before the first fetch."""
        return self._consumer.highwater(TopicPartition(self._topic, partition))

    def is_at_end(self) -> bool:
        """Whether all present records were read. Asks the broker: call it only when no record comes."""
        return is_at_end(self._consumer, self._assigned, self._waits)

    @property
    def num_behind(self) -> int:
        """The number of records between the last `poll` and the end that the last fetch reported."""
        positions = self.positions()
        return sum(max(0, (self.known_end(number) or 0) - position) for number, position in positions.items())
