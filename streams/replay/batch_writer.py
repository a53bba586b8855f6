"""`BatchWriter`: the rows of a replay, its dead letters, and the progress that they make, in one transaction each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from streams.clients.dead_letter_topics import DeadLetterTopics
from streams.clients.transactions import TransactionalProducer
from streams.keys import Field
from streams.logs.log_rows import BadLine, LogRows
from streams.records import (
    ARROW,
    MAX_RECORD_BYTES,
    VERSION,
    ReplayProgress,
    encode_clicks,
    encode_fields,
    encode_progress,
)
from streams.topics import Topics

__all__ = ["MAX_CLICKS_BYTES", "BatchWriter"]

MAX_CLICKS_BYTES = MAX_RECORD_BYTES - (1 << 16)  # with room for headers


class BatchWriter:
    """Writes batches, and commits them with the progress that they make.

    Args:
        producer: its transactions are this writer's.
        letters: addresses the dead letters.
        topics: the names of the topics.
        name: the name of the replay.
        partitions: partitions of the clicks topic.
        progress: the committed progress.
        transaction_s: the length of a transaction.
        clock: monotonic time in seconds.

    Attributes:
        progress: with the batches of the open transaction.
        committed: without them.
    """

    def __init__(
        self,
        producer: TransactionalProducer,
        letters: DeadLetterTopics,
        topics: Topics,
        *,
        name: str,
        partitions: int,
        progress: ReplayProgress,
        transaction_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._producer = producer
        self._letters = letters
        self._topics = topics
        self._partitions = partitions
        self._name = name
        self._transaction_s = transaction_s
        self._clock = clock
        self._commit_at_s = 0.0
        self.progress = self.committed = progress

    def send(self, file: str, first_line: int, last_line: int, rows: LogRows, *, is_whole: bool) -> None:
        """Sends a batch and its dead letters.

        Args:
            file: the name of its file.
            first_line: the number of its first line.
            last_line: the number of its last line.
            rows: the rows and malformed lines of these lines.
            is_whole: whether the batch ends here; otherwise its other lines follow.

        Raises:
            TransactionLostError: the broker has aborted the transaction.
            BrokerError: a record cannot be delivered.
        """
        if not self._producer.is_open:
            self._commit_at_s = self._clock() + self._transaction_s
        for line in rows.bad:
            self._send_letter(file, line)
        if rows.batch.num_rows:
            self._send_rows(file, first_line, last_line, rows)
        self.progress = _add(self.progress, rows, last_line - first_line + 1, is_whole=is_whole)
        if self._clock() >= self._commit_at_s:
            self.commit()

    def begin(self, fields: tuple[Field, ...] | None) -> None:
        """Commits the progress so far, which names this process as the one whose transactions count.

        Args:
            fields: recorded as those of the prefix; None if these or more are recorded.

        Raises:
            TransactionLostError: the broker has aborted the transaction.
            BrokerError: a record cannot be delivered.
        """
        if fields is not None:
            key, value, headers = encode_fields(fields)
            self._producer.send(self._topics.control, 0, value, headers, key=key)
        self.commit(always=True)

    def commit(self, *, always: bool = False) -> None:
        """Commits what was sent and the progress, if there is any, or always.

        Raises:
            TransactionLostError: the broker has aborted the transaction.
            BrokerError: a record cannot be delivered, or it is not known whether the transaction was committed.
        """
        if always or self.progress != self.committed:
            key, value = encode_progress(self._name, self.progress)
            self._producer.send(self._topics.control, 0, value, [], key=key)
            self._producer.commit()
            self.committed = self.progress

    def _send_rows(self, file: str, first_line: int, last_line: int, rows: LogRows) -> None:
        value = encode_clicks(rows.batch)
        if len(value) > MAX_CLICKS_BYTES and rows.batch.num_rows > 1:  # only lists of values make rows so large
            middle = int(rows.lines[rows.batch.num_rows // 2])
            self._send_rows(file, first_line, middle - 1, rows.between(first_line, middle - 1))
            self._send_rows(file, middle, last_line, rows.between(middle, last_line))
            return
        headers = [
            ("v", b"%d" % VERSION),
            ("content-type", ARROW),
            ("file", file.encode()),
            ("first-row", b"%d" % first_line),
            ("last-row", b"%d" % last_line),
        ]
        partition = (self.progress.passes + self.progress.batch) % self._partitions
        self._producer.send(self._topics.clicks, partition, value, headers)

    def _send_letter(self, file: str, line: BadLine) -> None:
        letter = self._letters.reject_line(
            self._topics.clicks, line.raw, file=file, line=line.line, error=line.error, message=line.reason
        )
        self._producer.send(letter.topic, letter.partition, letter.value, letter.headers, key=letter.key)


def _add(progress: ReplayProgress, rows: LogRows, lines: int, *, is_whole: bool) -> ReplayProgress:
    """The progress after some more lines."""
    return replace(
        progress,
        batch=progress.batch + is_whole,
        lines=0 if is_whole else progress.lines + lines,
        read=progress.read + lines,
        sent=progress.sent + rows.batch.num_rows,
        batches=progress.batches + (rows.batch.num_rows > 0),
        bad=progress.bad + len(rows.bad),
    )
