"""What every record has in common: the version, its headers, and what a record that does not decode becomes.

Header values are ASCII, so that any Kafka tool shows them legibly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "ARROW",
    "JSON",
    "MAX_RECORD_BYTES",
    "VERSION",
    "BadRecord",
    "Headers",
    "ascii_int",
    "check_version",
    "header_int",
]

VERSION = 1
MAX_RECORD_BYTES = 8 << 20
ARROW = b"application/vnd.apache.arrow.stream"
JSON = b"application/json"

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True)
class BadRecord:
    """A record that cannot be believed; `reason` says what, got and expected."""

    reason: str


def header_int(headers: Mapping[str, bytes], name: str) -> int:
    """The integer in header `name`.

    Raises:
        ValueError: the header is missing or no ASCII integer below 2^63 in size.
    """
    raw = headers.get(name)
    if raw is None:
        raise ValueError(f"header {name!r} is missing")
    if len(raw) <= 18 and raw.isdigit():  # nearly always
        return int(raw)
    if len(raw) > 20:
        raise ValueError(f"header {name!r}: {len(raw)} bytes, expected an integer")
    number = int(raw.decode("ascii"))
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"header {name!r}: {number} does not fit 64 bits")
    return number


def ascii_int(number: int) -> bytes:
    """An integer as a header value."""
    return b"%d" % number


def check_version(headers: Mapping[str, bytes]) -> None:
    """Raises what `header_int` raises, or ValueError for a version that is not ours."""
    version = header_int(headers, "v")
    if version != VERSION:
        raise ValueError(f"version {version}, expected {VERSION}; upgrade the reader")
