"""Replays click logs into the clicks topic; stopped at any moment and resumed, it sends every row exactly once.

    file -> blocks of N lines -> batch i -> partition i mod P        (bad lines -> dead letters, before the batch)

Each record's headers name its file and lines, so `resume` finds the point to continue from in the topic. Rows of a log
without a time column get the time of sending as their event time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from streams.clients.admin import require_partitions
from streams.clients.connector import Connector
from streams.clients.dead_letter_topics import DeadLetterTopics
from streams.clients.partition_reader import open_partition_log
from streams.clients.producer import RecordProducer
from streams.errors import BrokerError, ConfigError
from streams.logs.log_rows import BadLine
from streams.logs.reader import LogBlock, check_logs, read_log
from streams.logs.schema import LogSchema
from streams.records import ARROW, MAX_RECORD_BYTES, MAX_ROWS, VERSION, Mark, encode_clicks
from streams.replay.pacer import Pacer
from streams.replay.resume import ResumePoint, find_resume_point, name_replay, newest_marks
from streams.topics import Topics

__all__ = ["ReplayCounts", "ReplayPlan", "replay_logs"]

logger = logging.getLogger(__name__)

_LETTERS_IN_FLIGHT = 256
_ROOM_FOR_HEADERS_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class ReplayPlan:
    """The files of a replay, and how to send them.

    Args:
        paths: the files, in order.
        schema: the schema of the files.
        batch_rows: lines a record.
        rate_rows_s: rows a second; None for as fast as possible.
        speedup: seconds of event time a second, which needs a time column; None for as fast as possible.
        limit_rows: the number of lines, good and bad, to stop after, counted from the beginning of the first file.
        loop: whether to start over after the last file, until stopped or at the limit.
        resume: whether to continue the newest run of the same replay.
    """

    paths: tuple[Path, ...]
    schema: LogSchema
    batch_rows: int = 2048
    rate_rows_s: float | None = None
    speedup: float | None = None
    limit_rows: int | None = None
    loop: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        if not self.paths:
            raise ConfigError("files: got none, expected at least one click log")
        row_bytes = 9 + 4 * len(self.schema.dense) + 8 * len(self.schema.categorical)
        most = min(MAX_ROWS, (MAX_RECORD_BYTES - _ROOM_FOR_HEADERS_BYTES) // row_bytes)
        if not 1 <= self.batch_rows <= most:
            raise ConfigError(f"--batch-rows: got {self.batch_rows}, expected 1 to {most} for {self.schema}")
        for name, value in (("rate", self.rate_rows_s), ("speedup", self.speedup), ("limit", self.limit_rows)):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"--{name}: got {value}, expected more than 0")
        if self.speedup is not None and self.schema.time is None:
            raise ConfigError(f"--speedup: {self.schema} has no time column; use --rate, or name its time column")
        if self.speedup is not None and self.rate_rows_s is not None:
            raise ConfigError("--rate and --speedup: got both, expected one of them")

    def check_files(self) -> None:
        """Checks the files before a connection to a broker is made; raises as `check_logs` does."""
        check_logs(self.paths, self.schema)


@dataclass(kw_only=True)
class ReplayCounts:
    """The progress of a replay; `read` = `sent` + `bad` + `skipped` once it has ended.

    Attributes:
        read: lines read, without headers.
        sent: rows sent.
        bad: lines sent to the dead letters.
        skipped: lines that the topics already had.
        batches: records sent to the clicks topic.
        bytes_read: bytes read in this pass, as stored on disk.
        bytes_total: the size of all files, as stored on disk.
        resumed: whether the replay continues an earlier run.
    """

    read: int = 0
    sent: int = 0
    bad: int = 0
    skipped: int = 0
    batches: int = 0
    bytes_read: int = 0
    bytes_total: int = 0
    resumed: bool = False


def replay_logs(
    connector: Connector,
    plan: ReplayPlan,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[ReplayCounts], None] = lambda _: None,
) -> ReplayCounts:
    """Sends the rows; returns when all are acknowledged, or, if asked to stop, all those in flight.

    Raises:
        ConfigError: a file is missing or does not fit the schema.
        InputError: a file is damaged; the rows before the damage have been sent.
        BrokerError: no broker answers within 10 s, or it refuses a record.
        TopicError: a topic is missing, or cannot be resumed.
    """
    plan.check_files()
    topics = Topics(connector.prefix)
    partitions = require_partitions(connector, topics.clicks)
    dead_letters = DeadLetterTopics(connector, [topics.clicks])
    name = name_replay(plan.schema, plan.paths, plan.batch_rows, partitions)
    point = _start_point(connector, topics.clicks, partitions, name) if plan.resume else None
    if not plan.resume:
        _warn_of_repetition(connector, topics.clicks, partitions, name)
    counts = ReplayCounts(resumed=point is not None)
    counts.bytes_total = sum(path.stat().st_size for path in plan.paths)
    point = point or ResumePoint(run=_now_ms(), floors=(0,) * partitions)
    pacer = Pacer(rate_rows_s=plan.rate_rows_s, speedup=plan.speedup, should_stop=should_stop)
    try:
        with (
            RecordProducer(connector) as producer,
            RecordProducer(connector, max_in_flight=_LETTERS_IN_FLIGHT) as letter_producer,
        ):
            letters = _LetterSender(topics.clicks, dead_letters, letter_producer)
            sender = _BatchSender(plan, topics.clicks, name, point, pacer, counts, producer, letters)
            for batch, block in sender.batches():
                if should_stop() or not sender.send(batch, block):
                    break
                on_progress(counts)
    except BrokerError as error:
        raise BrokerError(f"{error}; {counts.sent} rows were sent; run again with --resume to continue") from error
    return counts


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _start_point(connector: Connector, topic: str, partitions: int, name: str) -> ResumePoint | None:
    with open_partition_log(connector) as log:
        point = find_resume_point(log, topic, Topics.dead_letters(topic), partitions, name)
    if point is None:
        logger.info("--resume: %s holds no record of a replay; starting with the first row", topic)
    else:
        logger.info("--resume: continuing after batch %d", max(point.last_lines))
    return point


def _warn_of_repetition(connector: Connector, topic: str, partitions: int, name: str) -> None:
    with open_partition_log(connector) as log:
        marks = newest_marks(log, topic, partitions)
    if any(mark is not None and mark.replay == name for mark in marks):
        logger.warning(
            "%s already holds rows of these files and will hold them twice (--resume continues instead)", topic
        )


class _BatchSender:
    """Sends blocks as batches, unless the topics already have them."""

    def __init__(
        self,
        plan: ReplayPlan,
        topic: str,
        name: str,
        point: ResumePoint,
        pacer: Pacer,
        counts: ReplayCounts,
        producer: RecordProducer,
        letters: _LetterSender,
    ) -> None:
        self._plan = plan
        self._topic = topic
        self._name = name
        self._point = point
        self._pacer = pacer
        self._counts = counts
        self._producer = producer
        self._letters = letters

    def batches(self) -> Iterator[tuple[int, LogBlock]]:
        """Numbers the blocks of all files and passes, up to the limit."""
        plan, counts, batch = self._plan, self._counts, 0
        while True:
            bytes_before, lines_before = 0, counts.read
            for path in plan.paths:
                for block in read_log(path, plan.schema, plan.batch_rows):
                    if plan.limit_rows is not None and counts.read >= plan.limit_rows:
                        return
                    yield batch, block
                    batch += 1
                    counts.bytes_read = bytes_before + block.bytes_read
                bytes_before += path.stat().st_size
            if not plan.loop:
                return
            if batch * 2 <= self._point.first_open_batch:  # the topic has whole passes: skip them unread
                passes = self._point.first_open_batch // batch - 1
                lines = (counts.read - lines_before) * passes
                counts.read, counts.skipped, batch = counts.read + lines, counts.skipped + lines, batch * (passes + 1)

    def send(self, batch: int, block: LogBlock) -> bool:
        """Sends the lines of a block that the topics lack; returns False, without sending, if asked to stop."""
        counts, first_line, last_line = self._counts, block.first_line, block.last_line
        if self._plan.limit_rows is not None:
            last_line = min(last_line, first_line + self._plan.limit_rows - counts.read - 1)
        lines = last_line - first_line + 1
        line_done = self._point.line_done(batch, last_line)
        if line_done >= last_line:
            counts.read, counts.skipped = counts.read + lines, counts.skipped + lines
            return True
        first_open_line = max(first_line, line_done + 1)
        rows = block.parse().between(first_open_line, last_line)
        if rows.batch.num_rows:
            name = f"{block.path.name}, lines {first_open_line} to {last_line}"
            if not self._pacer.wait(rows.batch.num_rows, int(rows.batch.event_time_ms.max()), name):
                return False
        bad = [line for line in rows.bad if not self._point.has_letter(batch, line.line)]
        mark = Mark(replay=self._name, run=self._point.run, batch=batch)
        self._letters.send(mark, block.path.name, bad)
        if rows.batch.num_rows:
            headers = [
                ("v", b"%d" % VERSION),
                ("content-type", ARROW),
                ("file", block.path.name.encode()),
                ("first-row", b"%d" % first_open_line),
                ("last-row", b"%d" % last_line),
                *mark.headers(),
            ]
            clicks = rows.batch
            if self._plan.schema.time is None:
                clicks = replace(clicks, event_time_ms=np.full(clicks.num_rows, _now_ms(), np.int64))
            partition = batch % len(self._point.floors)
            self._producer.send(self._topic, partition, encode_clicks(clicks), headers)
            counts.batches += 1
        counts.read += lines
        counts.sent += rows.batch.num_rows
        counts.bad += len(bad)
        counts.skipped += lines - rows.batch.num_rows - len(bad)
        return True


class _LetterSender:
    """Sends the dead letters of a replay's lines."""

    def __init__(self, topic: str, dead_letters: DeadLetterTopics, producer: RecordProducer) -> None:
        self._topic = topic
        self._dead_letters = dead_letters
        self._producer = producer

    def send(self, mark: Mark, file: str, bad: list[BadLine]) -> None:
        """Sends a batch's letters and waits for them, so that the topics never have a batch without its letters."""
        for line in bad:
            letter = self._dead_letters.reject_line(
                self._topic,
                line.raw,
                file=file,
                line=line.line,
                error=line.error,
                message=line.reason,
                headers=mark.headers(),
            )
            self._producer.send(letter.topic, letter.partition, letter.value, letter.headers, key=letter.key)
        if bad:
            self._producer.wait()
