"""Dead letters: what could not be believed, kept as it was, with where it came from and why.

A record that a reader rejects goes to `<topic>.dlq` with its key, value and headers, and headers `dlq-topic`,
`dlq-partition`, `dlq-offset`. A line of a log file that replay rejects goes to `<clicks>.dlq` with `dlq-file` and
`dlq-line`. Both have `dlq-error`, `dlq-message` and `dlq-time-ms`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from streams.clients.config import KafkaConfig
from streams.clients.partition_reader import open_partition_log
from streams.clients.producer import RecordProducer
from streams.errors import BrokerError
from streams.logs.log_rows import BadLine
from streams.records import MAX_RECORD_BYTES, Headers, dead_letter_headers, header_int
from streams.topics import Topics, require_partitions

__all__ = ["DeadLetter", "DeadLetterSink", "line_headers", "read_dead_letters", "resend"]

_ROOM_FOR_HEADERS_BYTES = 1 << 16


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def line_headers(file: str, line: BadLine, time_ms: int) -> list[tuple[str, bytes]]:
    """What the dead letter of a line of a file says of itself."""
    return [
        ("dlq-file", file.encode()),
        ("dlq-line", b"%d" % line.line),
        ("dlq-error", line.error.encode()),
        ("dlq-message", line.reason.encode()[:2000]),
        ("dlq-time-ms", b"%d" % time_ms),
    ]


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


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """One dead letter.

    Attributes:
        origin: where it came from: `file:line`, or `topic[partition]@offset`.
        topic: the topic that it was read from; None for a line of a file.
        partition: the partition that it was read from; -1 for a line of a file.
        error: the kind of error.
        message: what, got, expected.
        time_ms: when it was rejected.
        key: the original key.
        value: the original bytes.
        headers: the original headers.
    """

    origin: str
    topic: str | None
    partition: int
    error: str
    message: str
    time_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, record: Any) -> DeadLetter:
        """What a record of a dead-letter topic says; what it leaves out is shown as `?`."""
        named = dict(record.headers)

        def text(name: str) -> str:
            return bytes(named.get(name, b"?")).decode("utf-8", "replace")

        def number(name: str) -> int:
            try:
                return header_int(named, name)
            except ValueError:
                return -1

        topic = text("dlq-topic") if "dlq-topic" in named else None
        record_origin = f"{topic}[{text('dlq-partition')}]@{text('dlq-offset')}"
        return cls(
            origin=f"{text('dlq-file')}:{text('dlq-line')}" if topic is None else record_origin,
            topic=topic,
            partition=number("dlq-partition"),
            error=text("dlq-error"),
            message=text("dlq-message"),
            time_ms=number("dlq-time-ms"),
            key=record.key,
            value=record.value,
            headers=tuple((name, value) for name, value in record.headers if not name.startswith("dlq-")),
        )


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
