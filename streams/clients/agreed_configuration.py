"""Reads the configuration that the agents of a prefix agree on, from the control topic."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from streams.clients.connector import Connector
from streams.clients.partition_reader import open_partition_log
from streams.records import AgentConfiguration, BadRecord, decode_configuration, newest_configuration
from streams.topics import Topics

__all__ = ["agreed_capacity", "newest_of", "read_configuration"]

logger = logging.getLogger(__name__)


def read_configuration(connector: Connector) -> AgentConfiguration | None:
    """The configuration that counts; None if no agent has started yet, or the topic is missing.

    Waits for the transaction of a replay that is open, which hides the records behind its start.

    Raises:
        BrokerError: the broker does not answer or refuses.
    """
    topic = Topics(connector.prefix).control
    with open_partition_log(connector) as log:
        if not log.exists(topic):
            return None
        return newest_of(list(log.read(topic, 0, *log.bounds(topic, 0))), topic)


def newest_of(records: Sequence[Any], topic: str) -> AgentConfiguration | None:
    """The configuration that counts among the records of the control topic; logs those that are malformed."""
    decoded = [decode_configuration(record.key, record.value, record.headers) for record in records]
    for known in decoded:
        if isinstance(known, BadRecord):
            logger.warning("%s: configuration ignored: %s", topic, known.reason)
    return newest_configuration(known for known in decoded if isinstance(known, AgentConfiguration))


def agreed_capacity(connector: Connector) -> int | None:
    """The agents' capacity in rows; None if no agent has started yet.

    Raises:
        BrokerError: the broker does not answer or refuses.
    """
    agreed = read_configuration(connector)
    capacity = agreed.settings.get("capacity") if agreed is not None else None
    return capacity if type(capacity) is int and capacity > 0 else None
