"""The parts that all kinds of records share: version, headers, and `BadRecord` for what does not decode.

Header values are ASCII, so that any Kafka tool can show them.
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
    "version_reason",
]

VERSION = 2
MAX_RECORD_BYTES = 8 << 20
ARROW = b"application/vnd.apache.arrow.stream"
JSON = b"application/json"

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True)
class BadRecord:
    """A malformed or invalid record; `reason` gives what was wrong, what was got and what was expected."""

    reason: str


def header_int(headers: Mapping[str, bytes], name: str) -> int:
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
        raise ValueError(f"header {name!r}: got {len(raw)} bytes, expected an integer")
    number = int(raw.decode("ascii"))
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"header {name!r}: got {number}, expected a signed integer of 64 bits")
    return number


def ascii_int(number: int) -> bytes:
    """An integer as a header value."""
    return b"%d" % number


def version_reason(version: object) -> str:
    """The reason for refusing a record of another version, with the remedy."""
    remedy = "upgrade the reader"
    if isinstance(version, int) and version < VERSION:
        remedy = (
            "an older hotstream wrote the record: choose another --prefix, or delete the old topics, "
            "and run `hotstream topics create`"
        )
    return f"version {str(version)[:20]}, expected {VERSION}; {remedy}"


def check_version(headers: Mapping[str, bytes]) -> None:
    """Checks that the headers name the version of this module.

    Raises:
        ValueError: the header `v` is missing, malformed, or another version.
    """
    version = header_int(headers, "v")
    if version != VERSION:
        raise ValueError(version_reason(version))
