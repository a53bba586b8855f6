"""Dead letters: a rejected record or line as it was, with headers that say where it came from and why.

A record that a reader rejects goes to `<topic>.dlq` with its key, value and headers, and headers `dlq-topic`,
`dlq-partition`, `dlq-offset`. A line of a log file that replay rejects goes to `<clicks>.dlq` with `dlq-file` and
`dlq-line`. Both have `dlq-error`, `dlq-message` and `dlq-time-ms`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streams.records.headers import ascii_int, header_int

__all__ = ["DeadLetter", "dead_letter_headers", "line_headers"]


def dead_letter_headers(
    *, topic: str, partition: int, offset: int, error: str, message: str, time_ms: int
) -> list[tuple[str, bytes]]:
    """What a dead-lettered record says of itself; its key and value are the original bytes."""
    return [
        ("dlq-topic", topic.encode()),
        ("dlq-partition", ascii_int(partition)),
        ("dlq-offset", ascii_int(offset)),
        ("dlq-error", error.encode()),
        ("dlq-message", message.encode()[:2000]),
        ("dlq-time-ms", ascii_int(time_ms)),
    ]


def line_headers(file: str, line: int, *, error: str, message: str, time_ms: int) -> list[tuple[str, bytes]]:
    """What the dead letter of a line of a file says of itself."""
    return [
        ("dlq-file", file.encode()),
        ("dlq-line", b"%d" % line),
        ("dlq-error", error.encode()),
        ("dlq-message", message.encode()[:2000]),
        ("dlq-time-ms", b"%d" % time_ms),
    ]


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
