"""Moments of the assignments topic: given as offsets by partition, or as a time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone

from streams.clients.connector import Connector
from streams.clients.partition_reader import open_partition_log
from streams.errors import ConfigError

__all__ = ["find_offsets"]

_OFFSETS = re.compile(r"[0-9]{1,9}:[0-9]{1,18}(,[0-9]{1,9}:[0-9]{1,18})*")


def find_offsets(connector: Connector, topic: str, num_partitions: int, moment: str) -> Mapping[int, int]:
    """The offset of each partition at which reading up to a moment ends.

    Args:
        connector: the broker.
        topic: the topic.
        num_partitions: its number of partitions.
        moment: `PARTITION:OFFSET[,...]` for every partition; or a time, as ISO 8601 (UTC unless it names a zone) or in
            milliseconds since 1970: the first record with this Kafka timestamp or a later one is not read.

    Raises:
        ConfigError: the moment is malformed, or lacks a partition.
        BrokerError: the broker does not answer.
    """
    if _OFFSETS.fullmatch(moment):
        pairs = [pair.split(":") for pair in moment.split(",")]
        offsets = {int(partition): int(offset) for partition, offset in pairs}
        missing = sorted(set(range(num_partitions)) - set(offsets))
        if missing:
            raise ConfigError(f"--as-of: got no offset of partition {missing[0]}, expected one for each")
        return offsets
    time_ms = _parse_time(moment)
    with open_partition_log(connector) as log:
        return dict(enumerate(log.offsets_at(topic, num_partitions, time_ms)))


def _parse_time(moment: str) -> int:
    if moment.isdigit():
        return int(moment)
    try:
        parsed = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    except ValueError:
        raise ConfigError(
            f"--as-of: got {moment!r}, expected PARTITION:OFFSET,..., a time such as 2026-11-27T09:30, or milliseconds "
            "since 1970"
        ) from None
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp() * 1000)
