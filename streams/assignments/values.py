"""The values of hot features of kind `hash`, as `hotstream values` has published them."""

from __future__ import annotations

from streams.clients.connector import Connector
from streams.clients.partition_reader import open_partition_log
from streams.clients.topic_identity import require_topics
from streams.escapes import escape
from streams.records import decode_value
from streams.topics import Topics

__all__ = ["read_values"]

_MAX_CHARACTERS = 200


def read_values(connector: Connector) -> dict[int, str]:
    """The value of each feature key, in printable characters, cut after 200; malformed records are left out.

    Raises:
        BrokerError: the topic cannot be read.
        TopicError: the topic is missing.
    """
    topic = Topics(connector.prefix).values
    require_topics(connector, [topic])
    with open_partition_log(connector) as log:
        decoded = [
            decode_value(record.key, record.value, record.headers)
            for record in log.read(topic, 0, *log.bounds(topic, 0))
            if record.value is not None
        ]
    found = dict(one for one in decoded if isinstance(one, tuple))
    return {key: escape(value.decode("utf-8", "backslashreplace"), _MAX_CHARACTERS) for key, value in found.items()}
