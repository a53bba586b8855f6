"""`TransactionalProducer`: records that readers get all or none of, from one process at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from kafka.errors import (
    InvalidProducerEpochError,
    InvalidProducerIdMappingError,
    InvalidTxnStateError,
    KafkaTimeoutError,
    OutOfOrderSequenceNumberError,
    ProducerFencedError,
    TransactionalIdAuthorizationFailedError,
    UnknownProducerIdError,
)

from streams.clients.connector import Connector
from streams.clients.patience import may_pass
from streams.clients.producer import RecordProducer
from streams.errors import BrokerError, TransactionLostError

__all__ = ["TransactionalProducer"]

_MAX_IN_FLIGHT = 32
_NO_ANSWER = "Could not execute transactional request for unknown reasons"
_LOST = (
    InvalidProducerEpochError,
    InvalidProducerIdMappingError,
    InvalidTxnStateError,
    OutOfOrderSequenceNumberError,
    ProducerFencedError,
    UnknownProducerIdError,
)


class TransactionalProducer(RecordProducer):
    """Sends records in transactions.

    Guarantees: readers of committed records get all records of a transaction, or none if it is not committed. Opening a
    producer ends every earlier one with the same transactional id: its open transaction is aborted, whatever of it is
    still on its way, and each later call of it raises `TransactionLostError`. After any error the producer is of no
    further use; a new one with the same id finds out which transactions were committed.

    Args:
        connector: the broker.
        transactional_id: the name of the work; one producer at a time has it.

    Raises:
        BrokerError: no broker answers within 10 s, or this user lacks the right to use the id.
    """

    def __init__(self, connector: Connector, transactional_id: str) -> None:
        super().__init__(connector, max_in_flight=_MAX_IN_FLIGHT, transactional_id=transactional_id)
        self._id = transactional_id
        self._is_open = False
        try:
            self._take_over()
        except BrokerError:
            self._close(keep=False)
            raise

    def _take_over(self) -> None:
        """Ends the producer before, and waits until its last transaction is committed or aborted."""
        waits, since_s, is_done = self._connector.waits, time.monotonic(), False
        with self._explained("the transaction before did not end"):
            while not is_done:
                try:
                    self._producer.init_transactions()
                    is_done = True
                except KafkaTimeoutError:  # noqa: PERF203  the next call waits on
                    waits.note_wait(self, since_s)
                    waits.check()
        waits.note_answer()

    @property
    def is_open(self) -> bool:
        """Whether records were sent since the last commit."""
        return self._is_open

    def send(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        *,
        key: bytes | None = None,
    ) -> None:
        """Sends one record in the open transaction, or in a new one; see `RecordProducer.send`.

        Raises:
            TransactionLostError: the broker has ended the transaction.
            BrokerError: this record, or one before it, cannot be delivered.
        """
        if not self._is_open:
            with self._explained("a transaction could not be begun"):
                self._producer.begin_transaction()
            self._is_open = True
        super().send(topic, partition, value, headers, key=key)

    def commit(self) -> None:
        """Waits for all records of the open transaction, if any, and commits it.

        Raises:
            TransactionLostError: the broker has ended the transaction; none of its records counts.
            BrokerError: a record cannot be delivered, or it is not known whether the transaction was committed.
        """
        if self._is_open:
            self.wait()
            with self._explained("a transaction was not committed"):
                self._producer.commit_transaction()
            self._is_open = False

    def __enter__(self) -> TransactionalProducer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Aborts the open transaction, unless the broker has failed or the process is being terminated."""
        keep = kind is None or (issubclass(kind, Exception) and not issubclass(kind, BrokerError))
        try:
            if keep and self._is_open:
                keep = False
                with self._explained("a transaction could not be aborted"):
                    self._producer.abort_transaction()
                keep = True
        finally:
            self._close(keep=keep)

    @contextmanager
    def _explained(self, what: str, topic: str = "") -> Iterator[None]:
        try:
            with super()._explained(what, topic):
                yield
        except BrokerError as error:
            cause = self._failure or self._producer.transaction_error or error.__cause__
            if isinstance(cause, _LOST) or (_has_no_answer(cause) and not self._connector.waits.is_over):
                raise TransactionLostError(
                    f"{self._connector.bootstrap_servers}: the broker has ended a transaction of {self._id}"
                ) from cause
            if isinstance(cause, TransactionalIdAuthorizationFailedError):
                raise BrokerError(
                    f"{self._connector.bootstrap_servers}: this user lacks WRITE on transactional id {self._id}; "
                    "have it allowed (docs/security.md)"
                ) from cause
            raise


def _has_no_answer(cause: BaseException | None) -> bool:
    """Whether a request of a transaction got no answer, after which kafka-python's producer is of no further use.

    kafka-python raises a bare `KafkaError` for it, whose text names the broker's error.
    """
    return isinstance(cause, Exception) and (may_pass(cause) or _NO_ANSWER in str(cause))
