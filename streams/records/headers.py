"""The parts that all kinds of records share: version, headers, and `BadRecord` for what does not decode.

Header values are ASCII, so that any Kafka tool can show them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streams.escapes import escape

__all__ = [
    "ARROW",
    "JSON",
    "MAX_RECORD_BYTES",
    "MAX_TIME_MS",
    "UNREADABLE",
    "VERSION",
    "BadRecord",
    "Headers",
    "ascii_int",
    "check_time",
    "check_version",
    "header_int",
    "read_headers",
    "version_reason",
]

VERSION = 2
MAX_RECORD_BYTES = 8 << 20
MAX_TIME_MS = 253_402_300_799_999  # the last millisecond of the year 9999, the last that date libraries can show
UNREADABLE = "dlq-unreadable"  # a header that our Kafka clients add to a record that their library cannot decode
ARROW = b"application/vnd.apache.arrow.stream"
JSON = b"application/json"

Headers = Sequence[tuple[str, bytes | None]]  # Kafka allows a null

_INTEGER = re.compile(rb"-?[0-9]{1,20}")


@dataclass(frozen=True)
class BadRecord:
    """A malformed or invalid record; `reason` gives what was wrong, what was got and what was expected.

    The reason may quote the record, so it is cut and escaped here, for every use.
    """

    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", escape(self.reason))


def read_headers(headers: Headers) -> dict[str, bytes | None]:
    """The headers by name; of several with one name the last.

    Raises:
        ValueError: the Kafka client could not decode the record.
    """
    named = dict(headers)
    if UNREADABLE in named:
        raise ValueError((named[UNREADABLE] or b"unreadable").decode("utf-8", "replace"))
    return named


def header_int(headers: Mapping[str, bytes | None], name: str) -> int:
    """The integer in header `name`.

    Raises:
        ValueError: the header is missing, or is not an ASCII integer of 64 bits, signed.
    """
    raw = headers.get(name)
    if raw is None:
        raise ValueError(f"header {name!r} is missing, expected an integer")
    if len(raw) <= 18 and raw.isdigit():  # nearly always
        return int(raw)
    if len(raw) > 20:
        raise ValueError(f"header {name!r}: got {len(raw)} bytes, expected a signed integer of 64 bits")
    if not _INTEGER.fullmatch(raw):  # Python's int accepts underscores and spaces
        raise ValueError(f"header {name!r}: got {raw!r}, expected an integer")
    number = int(raw)
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"header {name!r}: got {number}, expected a signed integer of 64 bits")
    return number


def check_time(time_ms: int, name: str) -> None:
    """Checks that a time is a date.

    Raises:
        ValueError: the time is before 1970 or after the year 9999.
    """
    if not 0 <= time_ms <= MAX_TIME_MS:
        raise ValueError(f"{name}: got {time_ms}, expected milliseconds since 1970, 0 to {MAX_TIME_MS}")


def ascii_int(number: int) -> bytes:
    """An integer as a header value."""
    return b"%d" % number


def version_reason(version: object) -> str:
    """The reason for refusing a record of another version, with the remedy."""
    remedy = "upgrade the reader"
    if isinstance(version, int) and version < VERSION:
        remedy = (
            "an older hotstream wrote the record: choose another --prefix, or delete the old topics, "
            "and run `hotstream topics create` with the same --prefix"
        )
    return f"version {str(version)[:20]}, expected {VERSION}; {remedy}"


def check_version(headers: Mapping[str, bytes | None]) -> None:
    """Checks that the headers name the version of this module.

    Raises:
        ValueError: the header `v` is missing, malformed, or another version.
    """
    version = header_int(headers, "v")
    if version != VERSION:
        raise ValueError(version_reason(version))
