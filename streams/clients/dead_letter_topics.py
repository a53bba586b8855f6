"""Dead letters: what could not be believed, kept as it was, with where it came from and why.

A record that a reader rejects goes to `<topic>.dlq` with its key, value and headers, and headers `dlq-topic`,
`dlq-partition`, `dlq-offset`. A line of a log file that replay rejects goes to `<clicks>.dlq` with `dlq-file` and
`dlq-line`. Both have `dlq-error`, `dlq-message` and `dlq-time-ms`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from streams.clients.admin import require_partitions
from streams.clients.config import KafkaConfig
from streams.clients.partition_reader import open_partition_log
from streams.clients.producer import RecordProducer
from streams.errors import BrokerError
from streams.records import MAX_RECORD_BYTES, DeadLetter, Headers, dead_letter_headers
from streams.topics import Topics

__all__ = ["DeadLetterSink", "read_dead_letters", "resend"]

_ROOM_FOR_HEADERS_BYTES = 1 << 16


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class DeadLetterSink:
    """Writes rejected records to their dead-letter topics, on a kafka-python producer that the caller owns.

    Never blocks for the broker: a letter that cannot be delivered is raised by the next call of `send` or `check`.

    Args:
        producer: a `kafka.KafkaProducer`.
        clock_ms: the wall clock.

    Attributes:
        count: letters sent.
    """

    def __init__(self, producer: Any, clock_ms: Callable[[], int] = _now_ms) -> None:
        self._producer = producer
        self._clock_ms = clock_ms
        self._failure: BaseException | None = None
        self.count = 0

    def send(
        self,
        topic: str,
        partition: int,
        offset: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        reason: str,
    ) -> None:
        """Keeps one record that was read from `topic`; its own headers stay, before the letter's.

        Raises:
            BrokerError: an earlier letter was lost.
        """
        self.check()
        target = Topics.dead_letters(topic)
        own = dead_letter_headers(
            topic=topic, partition=partition, offset=offset, error="BadRecord", message=reason, time_ms=self._clock_ms()
        )
        kept = b"" if value is None and key is None else value  # kafka-python sends no record without both
        if kept is not None and len(kept) > MAX_RECORD_BYTES - _ROOM_FOR_HEADERS_BYTES:
            own.append(("dlq-cut-from-bytes", b"%d" % len(kept)))
            kept = kept[: MAX_RECORD_BYTES - _ROOM_FOR_HEADERS_BYTES]
        available = sorted(self._producer.partitions_for(target))
        future = self._producer.send(
            target, kept, key=key, headers=[*headers, *own], partition=available[partition % len(available)]
        )
        future.add_errback(self._note_failure)
        self.count += 1

    def check(self) -> None:
        """Raises what went wrong since.

        Raises:
            BrokerError: a letter was lost.
        """
        if self._failure is not None:
            raise BrokerError(f"a dead letter was lost ({self._failure}); start again from the last checkpoint")

    def _note_failure(self, error: BaseException) -> None:
        self._failure = error


def read_dead_letters(config: KafkaConfig, topic: str) -> Iterator[DeadLetter]:
    """The dead letters of a topic that stand there now, partition by partition, oldest first.

    Raises:
        BrokerError: nobody answers.
        TopicError: the dead-letter topic is missing.
    """
    target = Topics.dead_letters(topic)
    partitions = require_partitions(config, target)
    with open_partition_log(config) as log:
        for partition in range(partitions):
            for record in log.read(target, partition, *log.bounds(target, partition)):
                yield DeadLetter.of(record)


def resend(config: KafkaConfig, topic: str) -> tuple[int, int]:
    """Sends the dead-lettered records of a topic to it once more; returns (records sent, lines of files left).

    The letters stay where they are: a second call sends them a second time.

    Raises:
        BrokerError: nobody answers, or a record cannot be delivered.
        TopicError: one of the topics is missing.
    """
    partitions = require_partitions(config, topic)
    sent = left = 0
    with RecordProducer(config, max_in_flight=64) as producer:
        for letter in read_dead_letters(config, topic):
            if letter.topic != topic:
                left += 1
                continue
            producer.send(topic, letter.partition % partitions, letter.value, letter.headers, key=letter.key)
            sent += 1
    return sent, left
