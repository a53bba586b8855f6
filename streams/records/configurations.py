"""The records of the control topic by which the agents of a prefix agree, and by which a reader can make keys.

    key  `agents`    JSON: v, kind `agents`, number, settings
    key  `fields`    JSON: v, kind `fields`, fields: a list of [name, kind] in the order of the fields' numbers

Numbers grow by one. If two agents write the same number, the first record counts. Fields are only added at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streams.keys import Field
from streams.records.arrow import fields_from_metadata
from streams.records.headers import VERSION, BadRecord, Headers, ascii_int, check_version, read_headers

__all__ = [
    "AgentConfiguration",
    "decode_configuration",
    "decode_fields",
    "encode_configuration",
    "encode_fields",
    "newest_configuration",
]

_KEY = b"agents"
_FIELDS_KEY = b"fields"


@dataclass(frozen=True, kw_only=True)
class AgentConfiguration:
    """What all agents of a prefix have in common.

    Attributes:
        number: 1 for the first configuration of a prefix.
        settings: name -> value, as JSON has them.
    """

    number: int
    settings: Mapping[str, Any]

    def describe_differences(self, theirs: AgentConfiguration) -> str:
        """The settings that differ, each with both values."""
        names = sorted({*self.settings, *theirs.settings})
        pairs = [(name, self.settings.get(name), theirs.settings.get(name)) for name in names]
        return ", ".join(f"{name} {mine!r} instead of {other!r}" for name, mine, other in pairs if mine != other)


def encode_configuration(
    configuration: AgentConfiguration,
) -> tuple[bytes, bytes, list[tuple[str, bytes | None]]]:
    """Kafka key, value and headers."""
    body = {
        "v": VERSION,
        "kind": "agents",
        "number": configuration.number,
        "settings": dict(configuration.settings),
    }
    return _KEY, json.dumps(body).encode(), [("v", ascii_int(VERSION))]


def decode_configuration(
    key: bytes | None, value: bytes | None, headers: Headers
) -> AgentConfiguration | BadRecord | None:
    """Decodes a record of the control topic; None if it is of another kind."""
    if key != _KEY or value is None:
        return None
    try:
        check_version(read_headers(headers))
        body = json.loads(value)
        number, settings = body["number"], body["settings"]
        if body["kind"] != "agents" or type(number) is not int or number < 1 or not isinstance(settings, dict):
            return BadRecord(f"configuration: got {body}, expected kind, number and settings")
        return AgentConfiguration(number=number, settings=settings)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return BadRecord(f"configuration: {type(error).__name__}: {error}")


def encode_fields(fields: Sequence[Field]) -> tuple[bytes, bytes, list[tuple[str, bytes | None]]]:
    """Kafka key, value and headers of the record of the fields, in the order of their numbers."""
    body = {"v": VERSION, "kind": "fields", "fields": [[field.name, field.kind] for field in fields]}
    return _FIELDS_KEY, json.dumps(body, separators=(",", ":")).encode(), [("v", ascii_int(VERSION))]


def decode_fields(key: bytes | None, value: bytes | None, headers: Headers) -> tuple[Field, ...] | BadRecord | None:
    """Decodes a record of the control topic; None if it is of another kind."""
    if key != _FIELDS_KEY or value is None:
        return None
    try:
        check_version(read_headers(headers))
        return fields_from_metadata({b"fields": json.dumps(json.loads(value)["fields"]).encode()})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return BadRecord(f"fields: {type(error).__name__}: {error}")


def newest_configuration(found: Iterable[AgentConfiguration]) -> AgentConfiguration | None:
    """The configuration that counts, of those in the order of the log; None if there is none."""
    newest: AgentConfiguration | None = None
    for configuration in found:
        if newest is None or configuration.number > newest.number:
            newest = configuration
    return newest
