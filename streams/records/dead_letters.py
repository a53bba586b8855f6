"""Dead letters: a rejected record or line, unchanged, with headers that name its origin and the reason.

A record that a reader rejects goes to `<topic>.dlq` with its key, value and headers, and the headers `dlq-topic`,
`dlq-partition` and `dlq-offset`. A line of a log file that replay rejects goes to `<clicks>.dlq` with `dlq-file` and
`dlq-line`. Both have `dlq-error`, `dlq-message` and `dlq-time-ms`.

A key or value that does not fit a record is truncated; headers that do not fit are dropped. A header then gives the
original size: `dlq-cut-from-bytes` of the value, `dlq-cut-key-from-bytes`, `dlq-cut-headers-from-bytes`. A record that
the Kafka client could not decode has `dlq-unreadable`, the reason; its value may be undecoded bytes of the log.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

from streams.records.headers import MAX_RECORD_BYTES, UNREADABLE, Headers, ascii_int, header_int

__all__ = ["DeadLetter", "Letter", "write_letter", "write_line_letter"]

_MAX_KEY_BYTES = _MAX_HEADERS_BYTES = 1 << 16
_HEADER_OVERHEAD_BYTES = 10  # the lengths of name and content
_RECORD_OVERHEAD_BYTES = 256  # the framing of a batch of one record


class Letter(NamedTuple):
    """A record for a dead-letter topic, without topic and partition."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def write_letter(record: Any, *, error: str, message: str, time_ms: int) -> Letter:
    """The letter of a rejected record.

    Args:
        record: as a Kafka client gives it: `topic`, `partition`, `offset`, `key`, `value` and `headers`.
        error: the kind of error.
        message: the reason (what, got, expected); cut to 2000 bytes.
        time_ms: when the record was rejected.
    """
    origin: list[tuple[str, bytes | None]] = [
        ("dlq-topic", record.topic.encode()),
        ("dlq-partition", ascii_int(record.partition)),
        ("dlq-offset", ascii_int(record.offset)),
    ]
    return _fit(record.key, record.value, record.headers, [*origin, *_reason(error, message, time_ms)])


def write_line_letter(
    raw: bytes, *, file: str, line: int, error: str, message: str, time_ms: int, headers: Headers = ()
) -> Letter:
    """The letter of a rejected line of a log file, with the headers that its record would have had."""
    origin: list[tuple[str, bytes | None]] = [
        ("dlq-file", file.encode("utf-8", "backslashreplace")),
        ("dlq-line", ascii_int(line)),
    ]
    return _fit(None, raw, headers, [*origin, *_reason(error, message, time_ms)])


def _reason(error: str, message: str, time_ms: int) -> list[tuple[str, bytes | None]]:
    return [
        ("dlq-error", error.encode()),
        ("dlq-message", message.encode("utf-8", "backslashreplace")[:2000]),
        ("dlq-time-ms", ascii_int(time_ms)),
    ]


def _fit(key: bytes | None, value: bytes | None, headers: Headers, own: Headers) -> Letter:
    """Truncates key and value, and drops headers, as far as they do not fit a record."""
    kept, cuts = list(headers), []
    if (size := _size_of(kept)) > _MAX_HEADERS_BYTES:
        cuts.append(("dlq-cut-headers-from-bytes", ascii_int(size)))
        kept = []
    if key is not None and len(key) > _MAX_KEY_BYTES:
        cuts.append(("dlq-cut-key-from-bytes", ascii_int(len(key))))
        key = key[:_MAX_KEY_BYTES]
    room = MAX_RECORD_BYTES - _RECORD_OVERHEAD_BYTES - len(key or b"") - _size_of([*kept, *own, *cuts])
    if value is not None and len(value) > room:
        cuts.append(("dlq-cut-from-bytes", ascii_int(len(value))))
        value = value[:room]
    return Letter(key, value, [*kept, *own, *cuts])


def _size_of(headers: Headers) -> int:
    return sum(len(name.encode()) + len(content or b"") + _HEADER_OVERHEAD_BYTES for name, content in headers)


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A decoded dead letter.

    Attributes:
        origin: `file:line`, or `topic[partition]@offset`.
        topic: the topic of the rejected record; None for a line of a file.
        partition: the partition of the rejected record; -1 for a line of a file.
        error: the kind of error.
        message: the reason (what, got, expected).
        time_ms: when the record or line was rejected.
        key: the original key.
        value: the original value.
        headers: the original headers.
        is_cut: whether the letter lacks part of the original key, value or headers.
    """

    origin: str
    topic: str | None
    partition: int
    error: str
    message: str
    time_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    is_cut: bool = False

    @property
    def identity(self) -> bytes:
        """16 bytes that are equal for two letters of one record."""
        content = repr((self.origin, self.key, self.value, self.headers))
        return hashlib.blake2b(content.encode(), digest_size=16).digest()

    @classmethod
    def of(cls, record: Any) -> DeadLetter:
        """Decodes a record of a dead-letter topic; a header that is missing is shown as `?`."""
        named = dict(record.headers)

        def text(name: str) -> str:
            return (named.get(name) or b"?").decode("utf-8", "replace")

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
            is_cut=UNREADABLE in named or any(name.startswith("dlq-cut-") for name in named),
        )
