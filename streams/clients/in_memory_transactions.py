"""Transactions of an `InMemoryBroker`, with the rules of Kafka's: one producer an id, all records or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kafka.errors import IllegalStateError, KafkaError, ProducerFencedError

from streams.clients.in_memory_clients import Producer
from streams.clients.in_memory_sends import Future

if TYPE_CHECKING:
    from streams.clients.in_memory import InMemoryBroker

__all__ = ["TransactionalProducer", "Transactions"]

Headers = Sequence[tuple[str, bytes]]


class Transactions:
    """The transactional ids of a broker, and the epoch of the newest producer of each.

    Args:
        broker: the broker.
    """

    def __init__(self, broker: InMemoryBroker) -> None:
        self._broker = broker
        self._epochs: dict[str, int] = {}

    def take_over(self, transactional_id: str) -> int:
        """Aborts the open transaction of the id and fences its producers; returns the epoch of a new one."""
        with self._broker.lock:
            self.finish(transactional_id, is_committed=False)
            self._epochs[transactional_id] = self._epochs.get(transactional_id, -1) + 1
            return self._epochs[transactional_id]

    def expire(self) -> None:
        """Aborts all open transactions and fences their producers, as Kafka does after the transaction timeout."""
        with self._broker.lock:
            open_ids = {name for logs in self._broker.topics.values() for log in logs for name in log.open}
            for transactional_id in open_ids:
                self.take_over(transactional_id)

    def check(self, transactional_id: str, epoch: int) -> None:
        """Checks that a producer is the newest one of its id.

        Raises:
            ProducerFencedError: it is not, or its transaction was aborted.
        """
        if self._epochs.get(transactional_id) != epoch:
            raise ProducerFencedError(transactional_id)

    def finish(self, transactional_id: str, *, is_committed: bool) -> None:
        """Ends the open transaction, if any; its end takes an offset in each partition, as Kafka's markers do."""
        for log in (log for logs in self._broker.topics.values() for log in logs if transactional_id in log.open):
            offsets = set(log.open.pop(transactional_id))
            if not is_committed:
                log.records = [record for record in log.records if record.offset not in offsets]
            log.last_batch = log.end
            log.end += 1


class TransactionalProducer(Producer):
    """Sends like a `kafka.KafkaProducer` with a transactional id, one request a record.

    Args:
        broker: the broker.
        transactional_id: the id.

    Attributes:
        transaction_error: always None: each error is in a future, or raised.
    """

    transaction_error: BaseException | None = None

    def __init__(self, broker: InMemoryBroker, transactional_id: str) -> None:
        super().__init__(broker)
        self._id = transactional_id
        self._epoch = -1
        self._is_open = False

    def init_transactions(self) -> None:
        """Fences the producers of this id before, and aborts their open transaction."""
        with self._broker.requested(self._generation, 1):
            self._epoch = self._broker.transactions.take_over(self._id)

    def begin_transaction(self) -> None:
        """Begins a transaction; the broker learns of it with its first record.

        Raises:
            IllegalStateError: one is open, or `init_transactions` was not called.
        """
        if self._is_open or self._epoch < 0:
            raise IllegalStateError("begin_transaction: got an open transaction or no id yet, expected neither")
        self._is_open = True

    def send(
        self,
        topic: str,
        value: bytes | None = None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        partition: int = 0,
    ) -> Future:
        """Stores a record in the open transaction; the future holds the error, also that of a fenced producer."""
        if not self._is_open:
            raise IllegalStateError("send: got no open transaction, expected one")
        self._check()
        with self._broker.lock:
            try:
                self._broker.transactions.check(self._id, self._epoch)
                log = self._broker.partition(topic, partition)
            except KafkaError as error:
                return Future(error)
            first = log.end
            future = super().send(topic, value, key=key, headers=headers, partition=partition)
            if log.end > first:
                log.open.setdefault(self._id, []).extend(range(first, log.end))
            return future

    def commit_transaction(self) -> None:
        """Makes the records of the open transaction visible.

        Raises:
            CrashError: the broker has failed; if it loses an acknowledgement, after the commit.
            ProducerFencedError: the broker has aborted the transaction.
        """
        self._finish(is_committed=True)

    def abort_transaction(self) -> None:
        """Discards the records of the open transaction; raises as `commit_transaction` does."""
        self._finish(is_committed=False)

    def _finish(self, *, is_committed: bool) -> None:
        with self._broker.requested(self._generation, 1):
            self._broker.transactions.check(self._id, self._epoch)
            self._broker.transactions.finish(self._id, is_committed=is_committed)
            self._is_open = False
