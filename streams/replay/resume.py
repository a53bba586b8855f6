"""Where a replay stands: its record in the control topic, which each of its transactions renews beside the rows.

The producer of a replay has the replay's name as its transactional id, so what this reads after the producer was opened
is final: the run before can neither commit nor send any more.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from streams.clients.connector import Connector
from streams.clients.partition_reader import open_partition_log
from streams.clients.topic_identity import require_topics
from streams.errors import TopicError
from streams.records import REPLAY_KEY, BadRecord, ReplayProgress, decode_progress
from streams.topics import Topics

__all__ = ["find_start", "is_newest"]

logger = logging.getLogger(__name__)


def find_start(connector: Connector, name: str, *, process: str, resume: bool) -> ReplayProgress:
    """The progress that a process with the id `process` begins from: that of a new run, or of the run to resume.

    Raises:
        BrokerError: the topics cannot be read.
        TopicError: the run to resume is not known, or the clicks topic is not the one that it wrote to.
    """
    topics = Topics(connector.prefix)
    found, topic_id = _read_all(connector), _topic_id(connector, topics.clicks)
    last = _decode(name, found)
    if not resume:
        return _begin(topics.clicks, last, ReplayProgress(run=1, process=process, topic_id=topic_id))
    if last is None:
        _require_first_run(connector, topics.clicks, bool(found))
        return ReplayProgress(run=1, process=process, topic_id=topic_id)
    if isinstance(last, BadRecord):
        raise TopicError(
            f"--resume: the record of this replay in {topics.control!r} is malformed ({last.reason}), so the rows that "
            "are missing are not known; leave --resume out to send all rows"
        )
    if last.topic_id and topic_id and last.topic_id != topic_id:
        raise TopicError(
            f"--resume: topic {topics.clicks!r} was deleted and created again (id {topic_id}, expected "
            f"{last.topic_id}), so the rows of the run to resume are gone; leave --resume out to send all rows"
        )
    logger.info("--resume: continuing run %d after %d lines", last.run, last.read)
    return replace(last, process=process)


def _begin(topic: str, last: ReplayProgress | BadRecord | None, first: ReplayProgress) -> ReplayProgress:
    """The beginning of a new run."""
    if not isinstance(last, ReplayProgress):
        return first
    if last.read:
        logger.warning(
            "%s already holds rows of these files and will hold them twice (--resume continues instead)", topic
        )
    return replace(first, run=last.run + 1)


def is_newest(connector: Connector, name: str, process: str) -> bool:
    """Whether the newest committed progress of a replay is that of a process.

    Raises:
        BrokerError: the control topic cannot be read.
    """
    last = _decode(name, _read_all(connector))
    return isinstance(last, ReplayProgress) and last.process == process


def _read_all(connector: Connector) -> dict[bytes, bytes | None]:
    """The values of all replays' records by key; reads to the end, also if another transaction must end before."""
    control = Topics(connector.prefix).control
    with open_partition_log(connector) as log:
        return {
            record.key: record.value
            for record in log.read(control, 0, *log.bounds(control, 0))
            if record.key is not None and record.key.startswith(REPLAY_KEY)
        }


def _decode(name: str, values: dict[bytes, bytes | None]) -> ReplayProgress | BadRecord | None:
    value = values.get(REPLAY_KEY + name.encode())
    return None if value is None else decode_progress(value)


def _require_first_run(connector: Connector, topic: str, has_others: bool) -> None:
    """Checks that no run of this replay can have sent rows.

    Raises:
        TopicError: other replays have run, or the topic has records of which nothing is known.
    """
    if has_others:
        raise TopicError(
            f"--resume: only other replays have run on {topic!r} (other files, schema, --batch-rows or number of "
            "partitions); give the same files and options as before, or leave --resume out to append"
        )
    with open_partition_log(connector) as log:
        is_empty = log.is_empty(topic)
    if not is_empty:
        raise TopicError(
            f"--resume: {topic!r} has records, but {Topics(connector.prefix).control!r} none on how far a replay is "
            "(another program or an older hotstream wrote them), so the rows that are missing are not known; leave "
            f"--resume out to send all rows, or delete the topic and run `{Topics(connector.prefix).create_command}`"
        )
    logger.info("--resume: no run to resume; starting with the first row")


def _topic_id(connector: Connector, topic: str) -> str:
    """The id of a topic, which a topic created again under its name does not have; empty if the broker has no ids."""
    return require_topics(connector, [topic])[topic].topic_id or ""
