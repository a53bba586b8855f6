"""Replays click logs into the clicks topic; stopped at any moment and resumed, it sends every row exactly once.

    file -> blocks of N lines -> batch i -> partition i mod P        (bad lines -> dead letters)
            '-- a transaction: batches, their dead letters, and the progress that they make --'

Rows of a log without a time column get the time of sending as their event time.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from streams.clients.connector import Connector
from streams.clients.dead_letter_topics import DeadLetterTopics
from streams.clients.recorded_fields import require_fields
from streams.clients.topic_identity import require_topics
from streams.clients.transactions import TransactionalProducer
from streams.errors import BrokerError, InputError, TransactionLostError
from streams.logs.bad_lines import BadLines
from streams.logs.reader import LogBlock, read_log
from streams.records import ClickBatch, ReplayProgress
from streams.replay.batch_writer import BatchWriter
from streams.replay.pacer import Pacer
from streams.replay.plan import ReplayPlan, name_replay
from streams.replay.resume import find_start, is_newest
from streams.topics import Topics

__all__ = ["ReplayCounts", "replay_logs"]

logger = logging.getLogger(__name__)

_TRANSACTION_S = 1.0  # a commit takes about 40 ms on Apache Kafka, in which nothing is sent
_PACED_TRANSACTION_S = 0.25  # readers are so late at most
_LOOKS, _LOOK_S = 8, 0.5  # for another run, after the broker has ended a transaction


@dataclass(kw_only=True)
class ReplayCounts:
    """The progress of a replay; `read` = `sent` + `bad` + `skipped`.

    Attributes:
        read: lines read, without headers.
        sent: rows sent.
        bad: lines sent to the dead letters.
        skipped: lines that the topics already had.
        batches: records sent to the clicks topic.
        bytes_read: bytes read in this pass, as stored on disk.
        bytes_total: the size of all files, as stored on disk.
        resumed: whether the replay continues an earlier run.
        bad_lines: the malformed lines by reason; lines that had to be sent again count again.
    """

    read: int = 0
    sent: int = 0
    bad: int = 0
    skipped: int = 0
    batches: int = 0
    bytes_read: int = 0
    bytes_total: int = 0
    resumed: bool = False
    bad_lines: BadLines = field(default_factory=BadLines)

    def follow(self, start: ReplayProgress, now: ReplayProgress) -> None:
        """Counts what lies between the start of this process and now."""
        self.read, self.skipped, self.batches = now.read, start.read, now.batches - start.batches
        self.sent, self.bad = now.sent - start.sent, now.bad - start.bad
        self.resumed = start.read > 0


def replay_logs(
    connector: Connector,
    plan: ReplayPlan,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[ReplayCounts], None] = lambda _: None,
    transaction_s: float | None = None,
) -> ReplayCounts:
    """Sends the rows; returns when all are committed, or, if asked to stop, all those sent so far.

    What the broker aborts because this process or the broker itself stood still for too long is sent again.

    Args:
        connector: the broker.
        plan: what to send.
        should_stop: called between two batches.
        on_progress: called after each batch.
        transaction_s: the length of a transaction, by default 1 s, and with a pace 0.25 s; before the pacer waits it
            ends earlier.

    Raises:
        ConfigError: a file is missing or does not fit the schema.
        InputError: a file is damaged; the rows before the damage have been sent.
        BrokerError: no broker answers within 10 s, or it refuses a record.
        TransactionLostError: another run of this replay has taken over.
        TopicError: a topic is missing or has click records of another schema, or the run cannot be resumed.
    """
    plan.check_files()
    if transaction_s is None:
        transaction_s = _TRANSACTION_S if plan.rate_rows_s is None and plan.speedup is None else _PACED_TRANSACTION_S
    replay = _Replay(connector, plan, should_stop, on_progress, transaction_s)
    resume = plan.resume
    try:
        while not replay.run(resume=resume):
            resume = True
    except TransactionLostError:
        raise
    except BrokerError as error:
        sent = f"{replay.rows_committed} rows were sent"
        raise BrokerError(f"{error}; {sent}; run again with --resume to continue") from error
    return replay.counts


class _Replay:
    """A replay by this process, with one producer after the other.

    Attributes:
        counts: what was sent so far.
    """

    def __init__(
        self,
        connector: Connector,
        plan: ReplayPlan,
        should_stop: Callable[[], bool],
        on_progress: Callable[[ReplayCounts], None],
        transaction_s: float,
    ) -> None:
        topics = Topics(connector.prefix)
        identities = require_topics(connector, [topics.clicks, topics.control])
        self._partitions = identities[topics.clicks].partitions
        self._letters = DeadLetterTopics(connector, [topics.clicks])
        self._connector, self._topics, self._plan = connector, topics, plan
        self._should_stop, self._on_progress, self._transaction_s = should_stop, on_progress, transaction_s
        self._name = name_replay(plan.schema, plan.paths, plan.batch_rows)
        self._process = uuid.uuid4().hex[:16]
        self._first: ReplayProgress | None = None
        self._writer: BatchWriter | None = None
        self.counts = ReplayCounts(bytes_total=sum(file.size_bytes for file in plan.files))

    @property
    def rows_committed(self) -> int:
        """The rows that this process has sent for good."""
        return 0 if self._first is None or self._writer is None else self._writer.committed.sent - self._first.sent

    def run(self, *, resume: bool) -> bool:
        """Sends what is left with one producer; False if the broker has aborted a transaction of it.

        Raises:
            TransactionLostError: another run has taken over.
            BrokerError: the broker has failed.
        """
        transactional_id = self._topics.replay_id(self._name)
        try:
            with TransactionalProducer(self._connector, transactional_id) as producer:
                self._send_rest(producer, resume=resume)
        except TransactionLostError as error:
            if self._is_overtaken():
                raise TransactionLostError(
                    f"another run of this replay took over, so this one ends; it has sent {self.rows_committed} rows"
                ) from error
            logger.warning("%s, which stood still for too long; sends its rows again", error)
            return False
        return True

    def _is_overtaken(self) -> bool:
        """Whether another run has taken over; waits for its record, which follows the end of this one's transaction."""
        for _ in range(_LOOKS):
            if not is_newest(self._connector, self._name, self._process):
                return True
            time.sleep(_LOOK_S)
        return False

    def _send_rest(self, producer: TransactionalProducer, *, resume: bool) -> None:
        mine = self._plan.schema.categorical
        known = require_fields(self._connector, mine)
        start = find_start(self._connector, self._name, process=self._process, resume=resume)
        self._first = self._first or start
        self.counts.follow(self._first, start)
        if self._is_done(start):
            logger.info("--resume: nothing to do, all rows were sent before")
            return
        self._writer = BatchWriter(
            producer,
            self._letters,
            self._topics,
            name=self._name,
            partitions=self._partitions,
            progress=start,
            transaction_s=self._transaction_s,
        )
        self._writer.begin(mine if len(mine) > len(known) else None)
        pacer = Pacer(
            rate_rows_s=self._plan.rate_rows_s,
            speedup=self._plan.speedup,
            should_stop=self._should_stop,
            before_wait=self._writer.commit,
        )
        try:
            self._send_passes(self._writer, pacer)
        except InputError:
            self._writer.commit()
            raise
        self._writer.commit()

    def _send_passes(self, writer: BatchWriter, pacer: Pacer) -> None:
        while not self._is_done(writer.progress) and self._send_pass(writer, pacer):
            writer.progress = replace(writer.progress, passes=writer.progress.passes + 1, batch=0, lines=0)

    def _send_pass(self, writer: BatchWriter, pacer: Pacer) -> bool:
        """Sends the rest of a pass over the files; False if it is not complete, because of a stop or the limit."""
        number, bytes_before = 0, 0
        for file in self._plan.files:
            for block in read_log(file, self._plan.schema, self._plan.batch_rows):
                if self._should_stop() or self._is_done(writer.progress):
                    return False
                if number == writer.progress.batch and not self._send(writer, pacer, block):
                    return False
                number += 1
                self._report(writer, bytes_before + block.bytes_read)
            bytes_before += file.size_bytes
        return True

    def _send(self, writer: BatchWriter, pacer: Pacer, block: LogBlock) -> bool:
        """Sends the lines of a block that are left; False, without sending, if asked to stop."""
        done, first_line, last_line = writer.progress, block.first_line + writer.progress.lines, block.last_line
        if self._plan.limit_rows is not None:
            last_line = min(last_line, first_line + self._plan.limit_rows - done.read - 1)
        rows = block.parse().between(first_line, last_line)
        if rows.batch.num_rows:
            name = f"{block.file.name}, lines {first_line} to {last_line}"
            if not pacer.wait(rows.batch.num_rows, int(rows.batch.event_time_ms.max()), name):
                return False
            if self._plan.schema.time is None:
                rows = replace(rows, batch=_stamp(rows.batch))
        self.counts.bad_lines.add(rows, block.file.name)
        writer.send(block.file.name, first_line, last_line, rows, is_whole=last_line == block.last_line)
        return True

    def _report(self, writer: BatchWriter, bytes_read: int) -> None:
        self.counts.follow(self._first or writer.progress, writer.progress)
        self.counts.bytes_read = bytes_read
        self._on_progress(self.counts)

    def _is_done(self, progress: ReplayProgress) -> bool:
        limit = self._plan.limit_rows
        return (not self._plan.loop and progress.passes > 0) or (limit is not None and progress.read >= limit)


def _stamp(batch: ClickBatch) -> ClickBatch:
    """The rows with the present as their event time."""
    return replace(batch, event_time_ms=np.full(batch.num_rows, time.time_ns() // 1_000_000, np.int64))
