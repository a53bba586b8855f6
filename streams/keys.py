"""Feature keys: one 64-bit word identifies one value of one field, everywhere in hotstream.

    63      56 55                                             0
    +---------+------------------------------------------------+
    |  field  |                    payload                     |
    +---------+------------------------------------------------+
    1..255     the token itself, or a hash of it; 2^56-1: the value is missing

Field number 0 is never used, so key 0 identifies no feature and is reserved for control records. A token of 8 hex
digits (Criteo) *is* its payload, so such keys can be formatted and parsed without loss; any other token is hashed
(xxh3, seeded, 56 bits) and is formatted as the hash, marked by `~`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import xxhash

from streams.errors import ConfigError

__all__ = [
    "CRITEO_FIELDS",
    "FIELD_SHIFT",
    "MISSING",
    "MISSING_WORD",
    "PAYLOAD_BITS",
    "Field",
    "Keys",
    "compare_fields",
    "field_key",
    "format_key",
    "hash_token",
    "make_key",
    "parse_key",
]

Keys = npt.NDArray[np.uint64]
PAYLOAD_BITS = 56
MISSING = (1 << PAYLOAD_BITS) - 1
MAX_FIELDS = 255
# The same two as uint64, for kernels and arrays: numba does not keep a uint64 beside a Python integer unsigned.
FIELD_SHIFT = np.uint64(PAYLOAD_BITS)
MISSING_WORD = np.uint64(MISSING)
_HASH_SEED = 0x686F7473  # "hots"
_FIELD_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HEX32 = re.compile(r"[0-9A-Fa-f]{8}")
_FORMATTED = re.compile(r"([A-Za-z0-9_.-]{1,64}):(~[0-9a-f]{14}|[0-9a-f]{8}|missing)")


@dataclass(frozen=True)
class Field:
    """One categorical column.

    Args:
        name: 1 to 64 letters, digits, `_`, `.` or `-`.
        kind: `hex32` if every token is 8 hex digits, else `hash`.

    Raises:
        ConfigError: the name or the kind is invalid.
    """

    name: str
    kind: Literal["hex32", "hash"] = "hash"

    def __post_init__(self) -> None:
        if not _FIELD_NAME.fullmatch(self.name):
            raise ConfigError(f"field name {self.name!r}: expected 1 to 64 letters, digits, '_', '.' or '-'")
        if self.kind not in ("hex32", "hash"):
            raise ConfigError(f"field {self.name}: got kind {self.kind!r}, expected 'hex32' or 'hash'")


CRITEO_FIELDS = tuple(Field(f"C{number}", "hex32") for number in range(1, 27))


def compare_fields(fields: Sequence[Field], known: Sequence[Field]) -> str | None:
    """The reason why fields are not the first ones of those known; None if they are."""
    for number, (got, expected) in enumerate(zip(fields, known, strict=False), 1):
        if got != expected:
            return f"field {number}: got {got.name} ({got.kind}), expected {expected.name} ({expected.kind})"
    if len(fields) > len(known):
        return f"fields: got {len(fields)}, expected at most {len(known)}"
    return None


def field_key(number: int) -> np.uint64:
    """The field number (1-based) shifted to the top byte; the bitwise or with a payload gives the key.

    Raises:
        ConfigError: the number is not 1 to 255.
    """
    if not 1 <= number <= MAX_FIELDS:
        raise ConfigError(f"field number {number}: expected 1 to {MAX_FIELDS}")
    return np.uint64(number << PAYLOAD_BITS)


def hash_token(token: str | bytes) -> int:
    """The 56-bit payload of a token of a `hash` field; never `MISSING`."""
    raw = token.encode() if isinstance(token, str) else token
    payload = xxhash.xxh3_64_intdigest(raw, seed=_HASH_SEED) & MISSING
    return payload if payload != MISSING else MISSING - 1  # the all-ones payload is reserved for missing values


def make_key(number: int, kind: str, token: str) -> int:
    """The key of one token of field `number` (1-based); an empty token is a missing value.

    Raises:
        ConfigError: the field number is not 1 to 255.
        ValueError: the field is `hex32` and the token is not 8 hex digits.
    """
    base = int(field_key(number))
    if not token:
        return base | MISSING
    if kind == "hash":
        return base | hash_token(token)
    if _HEX32.fullmatch(token) is None:
        raise ValueError(f"token {token!r}: expected 8 hex digits")
    return base | int(token, 16)


def format_key(key: int, fields: Sequence[Field] = CRITEO_FIELDS) -> str:
    """The key as text: `C14:7e0ccccf`, `device_ip:~0c1d2e3f4a5b6c` or `C3:missing`.

    Raises:
        ValueError: `fields` has no field of the key's number.

    >>> format_key((14 << 56) | 0x7E0CCCCF)
    'C14:7e0ccccf'
    """
    number, payload = key >> PAYLOAD_BITS, key & MISSING
    if not 1 <= number <= len(fields):
        raise ValueError(f"key {key:#018x}: field number {number}, expected 1 to {len(fields)}")
    field = fields[number - 1]
    if payload == MISSING:
        return f"{field.name}:missing"
    return f"{field.name}:{payload:08x}" if field.kind == "hex32" else f"{field.name}:~{payload:014x}"


def parse_key(text: str, fields: Sequence[Field] = CRITEO_FIELDS) -> int:
    """The key that `format_key` formats as `text`.

    Raises:
        ValueError: the text is not a formatted key, its field is not in `fields`, or its token does not have the form
            of the field's kind.
    """
    match = _FORMATTED.fullmatch(text)
    if match is None:
        raise ValueError(f"feature {text!r}: expected NAME:8 hex digits, NAME:~14 hex digits or NAME:missing")
    name, token = match.groups()
    number = next((number for number, field in enumerate(fields, 1) if field.name == name), None)
    if number is None:
        raise ValueError(f"feature {text!r}: got field {name!r}, expected one of {', '.join(f.name for f in fields)}")
    kind = fields[number - 1].kind
    if token != "missing" and token.startswith("~") != (kind == "hash"):
        form = "~ and 14 hex digits" if kind == "hash" else "8 hex digits"
        raise ValueError(f"feature {text!r}: got token {token!r}, expected {form}: field {name} is of kind {kind}")
    payload = MISSING if token == "missing" else int(token.lstrip("~"), 16)
    return int(field_key(number)) | payload
