"""Finds the point to resume a replay from in the topic itself, whose records name their lines.

Batch i goes to partition i mod P, and at most `MAX_IN_FLIGHT` records are unacknowledged at any moment. So each
partition has all batches but possibly some of the last few, which are checked one by one:

    partition 0   0  4  8  12 ... 396 400     408      404 never arrived: it is sent again, 408 is not
                                  `-------------'      the last few: read back

The name of a replay depends on all that determines its batches (schema, files, batch size, partitions); a run is
identified by its start. A topic may hold several runs of a replay; only the newest one is resumed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streams.clients.partition_reader import PartitionLog
from streams.clients.producer import MAX_IN_FLIGHT
from streams.errors import TopicError
from streams.logs.schema import LogSchema
from streams.records import Mark, header_int

__all__ = ["ResumePoint", "find_resume_point", "name_replay", "newest_marks"]

logger = logging.getLogger(__name__)

# A batch that is sent again follows at most 2 * MAX_IN_FLIGHT later ones; twice that leaves a margin.
_READ_BACK = 4 * MAX_IN_FLIGHT
_CLOCK_SLACK_MS = 600_000  # the largest expected difference between the clocks of writers
_LETTER_WINDOW = 1024


def name_replay(schema: LogSchema, paths: Sequence[Path], batch_rows: int, partitions: int) -> str:
    """16 hex digits that identify the assignment of rows to batches and partitions.

    Files are identified by name and size, not by content.
    """
    files = [[path.name, path.stat().st_size] for path in paths]
    content = json.dumps([schema.fingerprint(), files, batch_rows, partitions])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """The lines of a replay that the topics already hold.

    Attributes:
        run: the run to resume.
        floors: (P,) the topic has every batch of partition p below floors[p].
        last_lines: the last line in the topic, of each further batch that the topic has.
        letter_batch: the dead-letter topic has all letters of the batches below this one.
        letter_lines: the lines of this batch whose letters it has.
    """

    run: int
    floors: tuple[int, ...]
    last_lines: Mapping[int, int] = field(default_factory=dict)
    letter_batch: int = 0
    letter_lines: frozenset[int] = frozenset()

    def line_done(self, batch: int, last_line: int) -> int:
        """The last line of a batch (which ends at `last_line`) that the topic has; 0 if it has none."""
        if batch < self.floors[batch % len(self.floors)]:
            return last_line
        return self.last_lines.get(batch, 0)

    def has_letter(self, batch: int, line: int) -> bool:
        """Whether the dead-letter topic has the letter of this line."""
        return batch < self.letter_batch or (batch == self.letter_batch and line in self.letter_lines)

    @property
    def first_open_batch(self) -> int:
        """The topic has every batch below this one."""
        return min(self.floors)


def newest_marks(log: PartitionLog, topic: str, partitions: int) -> list[Mark | None]:
    """The mark of the newest record of each partition; reads one record of each."""
    newest = (next(log.newest_first(topic, partition, window=1), None) for partition in range(partitions))
    return [None if record is None else Mark.read(record.headers) for record in newest]


def find_resume_point(
    log: PartitionLog, topic: str, dead_letters: str, partitions: int, replay: str
) -> ResumePoint | None:
    """Where the newest run of a replay stands; None if the topic holds no record of any replay.

    Reads the ends of the partitions, and more of them only where other writers' records stand in between.

    Raises:
        BrokerError: the topic cannot be read.
        TopicError: the newest records are of other replays.
    """
    log.settle(topic, partitions)
    newest = [next(_marked(log, topic, partition), None) for partition in range(partitions)]
    found = [mark for mark, _ in filter(None, newest)]
    runs = [mark.run for mark in found if mark.replay == replay]
    if not found:
        return None
    if not runs:
        raise TopicError(
            f"--resume: the newest records of {topic!r} are of another replay (other files, schema, --batch-rows or "
            "number of partitions); give the same files and options as before, or leave --resume out to append"
        )
    run = max(runs)
    floors: list[int] = []
    last_lines: dict[int, int] = {}
    for partition in range(partitions):
        there = _read_back(log, topic, partition, replay, run)
        is_all = len(there) < _READ_BACK
        floors.append(0 if is_all else min(batch for batch, _ in there[:MAX_IN_FLIGHT]))
        for batch, last_line in there:
            last_lines[batch] = max(last_line, last_lines.get(batch, 0))
    letter_batch, letter_lines = _letters(log, dead_letters, replay, run)
    return ResumePoint(
        run=run,
        floors=tuple(floors),
        last_lines=last_lines,
        letter_batch=letter_batch,
        letter_lines=letter_lines,
    )


def _marked(
    log: PartitionLog, topic: str, partition: int, *, since_ms: int = 0, window: int = 1
) -> Iterator[tuple[Mark, Any]]:
    """The records of a partition that have a replay's mark, newest first, with their marks."""
    for record in log.newest_first(topic, partition, window=window):
        if 0 <= record.timestamp < since_ms:
            return
        mark = Mark.read(record.headers)
        if mark is not None:
            yield mark, record


def _read_back(log: PartitionLog, topic: str, partition: int, replay: str, run: int) -> list[tuple[int, int]]:
    """(batch, last line) of the newest `_READ_BACK` records of a run in a partition, newest first."""
    there = []
    since_ms = run - _CLOCK_SLACK_MS
    for mark, record in _marked(log, topic, partition, since_ms=since_ms, window=_READ_BACK):
        if mark.replay == replay and mark.run == run:
            there.append((mark.batch, header_int(dict(record.headers), "last-row")))
            if len(there) == _READ_BACK:
                break
    return there


def _letters(log: PartitionLog, topic: str, replay: str, run: int) -> tuple[int, frozenset[int]]:
    """The newest batch of a run with dead letters, and the lines of its letters in the topic."""
    newest, lines = 0, set()
    for mark, record in _marked(log, topic, 0, since_ms=run - _CLOCK_SLACK_MS, window=_LETTER_WINDOW):
        if mark.replay == replay and mark.run == run:
            newest = max(newest, mark.batch)
            if mark.batch < newest:
                break
            lines.add(header_int(dict(record.headers), "dlq-line"))
    return newest, frozenset(lines)
