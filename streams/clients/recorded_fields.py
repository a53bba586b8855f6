"""The fields of a prefix, as replays and agents record them in the control topic: key -> value needs them.

Fields are only added at the end, so that the number of a field never changes its meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streams.clients.connector import Connector
from streams.clients.partition_reader import open_partition_log
from streams.errors import TopicError
from streams.keys import Field, compare_fields
from streams.records import decode_fields
from streams.topics import Topics

__all__ = ["newest_fields", "read_fields", "require_fields"]


def read_fields(connector: Connector) -> tuple[Field, ...]:
    """The fields that are recorded; none if there is no record.

    Raises:
        BrokerError: the control topic cannot be read.
    """
    control = Topics(connector.prefix).control
    with open_partition_log(connector) as log:
        return newest_fields(log.read(control, 0, *log.bounds(control, 0)))


def newest_fields(records: Iterable[Any]) -> tuple[Field, ...]:
    """The fields that the last well-formed record of the control topic names; none if there is no such record."""
    fields: tuple[Field, ...] = ()
    for record in records:
        decoded = decode_fields(record.key, record.value, record.headers)
        fields = decoded if isinstance(decoded, tuple) else fields
    return fields


def require_fields(connector: Connector, fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """Refuses fields that are neither the recorded ones, nor begin with them, nor are their beginning.

    Returns:
        The recorded fields.

    Raises:
        BrokerError: the control topic cannot be read.
        TopicError: the fields are those of another schema; the message names the first one that differs.
    """
    known = read_fields(connector)
    difference = compare_fields(fields[: len(known)], known)
    if difference is not None:
        raise TopicError(
            f"--schema: {difference} as in the click records under {connector.prefix!r}; use the schema that these "
            "have, another --prefix, or delete the topics and run `hotstream topics create`"
        )
    return known
