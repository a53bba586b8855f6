"""What the producers of an `InMemoryBroker` return: the result of a `send`, and a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kafka.errors import KafkaError, KafkaTimeoutError, RetriableError

if TYPE_CHECKING:
    from streams.clients.in_memory import Item

__all__ = ["Batch", "Future"]


class Batch:
    """Records that are sent together; the result of `AIOKafkaProducer.create_batch`."""

    def __init__(self, max_records: int) -> None:
        self._max_records = max_records
        self.items: list[Item] = []

    def append(
        self, *, key: bytes | None, value: bytes | None, timestamp: int | None, headers: list[tuple[str, bytes]]
    ) -> Any:
        """Adds a record; returns None if the batch is full.

        Raises:
            TypeError: `headers` is no list, which aiokafka requires.
        """
        if not isinstance(headers, list):
            raise TypeError(f"headers: got {type(headers).__name__}, expected list")
        if len(self.items) >= self._max_records:
            return None
        self.items.append((key, value, headers, timestamp))
        return self

    def record_count(self) -> int:
        """The number of records in the batch."""
        return len(self.items)

    def size(self) -> int:
        """The bytes of the values in the batch."""
        return sum(len(value or b"") for _, value, _, _ in self.items)

    def close(self) -> None:
        """Does nothing: a batch has no encoded form."""


class Future:
    """The result of `Producer.send`, complete unless the request lost its connection; `get` then sends it again.

    Attributes:
        is_done: whether the record was acknowledged or refused.
    """

    def __init__(self, store: Callable[[], object]) -> None:
        self.is_done = False
        self._store = store
        self._error: KafkaError | None = None
        self._attempt()

    def _attempt(self) -> None:
        try:
            self._store()
        except RetriableError as error:
            self.is_done = getattr(error, "is_stored", False)  # an idempotent producer's copy is not stored again
        except KafkaError as error:
            self.is_done, self._error = True, error
        else:
            self.is_done = True

    def add_errback(self, callback: Callable[[BaseException], None]) -> None:
        """Calls the callback if the record could not be stored."""
        if self._error is not None:
            callback(self._error)

    def succeeded(self) -> bool:
        """Whether the record was acknowledged."""
        return self.is_done and self._error is None

    def get(self, timeout: float | None = None) -> None:
        """Raises the error if the record was not acknowledged."""
        del timeout
        if not self.is_done:
            self._attempt()
        if self._error is not None:
            raise self._error
        if not self.is_done:
            raise KafkaTimeoutError
