"""Writes, reads and resends the dead letters of all topics.

`<topic>.dlq` holds the records that readers of `<topic>` rejected; `streams.records.dead_letters` defines the format.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from streams.clients.admin import require_partitions
from streams.clients.connector import Connector
from streams.clients.partition_reader import open_partition_log
from streams.clients.producer import RecordProducer
from streams.records import DeadLetter, write_letter, write_line_letter
from streams.topics import Topics

__all__ = ["AddressedLetter", "DeadLetterTopics", "Resent", "read_dead_letters", "resend"]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class AddressedLetter(NamedTuple):
    """A dead letter with its topic and partition."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class DeadLetterTopics:
    """Addresses the letters of rejected records; the caller sends them with its own producer.

    A letter goes to the partition of its record, modulo the number of partitions of the dead-letter topic.

    Args:
        connector: the broker.
        topics: the topics whose records may be rejected.
        clock_ms: the wall clock.

    Raises:
        BrokerError: no broker answers.
        TopicError: a dead-letter topic is missing.
    """

    def __init__(self, connector: Connector, topics: Iterable[str], clock_ms: Callable[[], int] = _now_ms) -> None:
        self._clock_ms = clock_ms
        self._partitions = {topic: require_partitions(connector, Topics.dead_letters(topic)) for topic in topics}

    def reject(self, record: Any, reason: str) -> AddressedLetter:
        """The letter of a record that does not decode.

        Args:
            record: as a Kafka client gives it: `topic`, `partition`, `offset`, `key`, `value` and `headers`.
            reason: the reason (what, got, expected).
        """
        letter = write_letter(record, error="BadRecord", message=reason, time_ms=self._clock_ms())
        partition = record.partition % self._partitions[record.topic]
        return AddressedLetter(Topics.dead_letters(record.topic), partition, *letter)

    def reject_line(self, topic: str, raw: bytes, *, file: str, line: int, error: str, message: str) -> AddressedLetter:
        """The letter of a line of a log file that would have become part of a record of `topic`."""
        letter = write_line_letter(raw, file=file, line=line, error=error, message=message, time_ms=self._clock_ms())
        return AddressedLetter(Topics.dead_letters(topic), 0, *letter)


def read_dead_letters(connector: Connector, topic: str) -> Iterator[DeadLetter]:
    """The present dead letters of a topic, partition by partition, oldest first, each record's once.

    A process (not a replay) that was killed reads again what came after its last snapshot or checkpoint, and writes
    the letters of these records again. Memory: 32 bytes a letter.

    Raises:
        BrokerError: no broker answers.
        TopicError: the dead-letter topic is missing.
    """
    target = Topics.dead_letters(topic)
    partitions = require_partitions(connector, target)
    with open_partition_log(connector) as log:
        for partition in range(partitions):
            known: set[bytes] = set()
            for record in log.read(target, partition, *log.bounds(target, partition)):
                letter = DeadLetter.of(record)
                if letter.topic is not None and letter.identity in known:
                    continue
                known.add(letter.identity)
                yield letter


class Resent(NamedTuple):
    """The counts of `resend`: records sent, lines of files skipped, and cut records skipped."""

    sent: int
    left: int
    cut: int


def resend(connector: Connector, topic: str) -> Resent:
    """Sends the dead-lettered records of a topic to it again, with their original key, value and headers.

    The letters stay in the dead-letter topic, so a second call sends them again.

    Raises:
        BrokerError: no broker answers, or a record cannot be delivered.
        TopicError: one of the topics is missing.
    """
    partitions = require_partitions(connector, topic)
    sent = left = cut = 0
    with RecordProducer(connector, max_in_flight=64) as producer:
        for letter in read_dead_letters(connector, topic):
            if letter.topic != topic:
                left += 1
            elif letter.is_cut:
                cut += 1
            else:
                producer.send(topic, letter.partition % partitions, letter.value, letter.headers, key=letter.key)
                sent += 1
    return Resent(sent, left, cut)
