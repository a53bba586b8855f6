"""Importance records for every shard: to fill the hot sets, and at a steady rate."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import numpy as np
import numpy.typing as npt

from sketch.hashing import shard_of
from sketch.hotset import REVIEW_CHANGES, REVIEW_EVENTS
from streams.clients.connector import Connector
from streams.clients.producer import RecordProducer
from streams.keys import FIELD_SHIFT, Field
from streams.records import ImportanceBatch, Source, encode_importance
from streams.topics import Topics

__all__ = ["Load", "make_keys"]

_FIELDS = (Field("item"),)
_FIRST_FIELD = np.uint64(1 << FIELD_SHIFT)
_FILL_KEYS = 4 * REVIEW_EVENTS
_IN_FLIGHT = 64


def make_keys(shards: int, keys: int, seed: int) -> list[npt.NDArray[np.uint64]]:
    """So many feature keys of each shard."""
    random = np.random.default_rng(seed)
    found: list[list[npt.NDArray[np.uint64]]] = [[] for _ in range(shards)]
    while min(sum(map(len, parts)) for parts in found) < keys:
        drawn = random.integers(0, 1 << FIELD_SHIFT, shards * keys // 4 + 1024, dtype=np.uint64) | _FIRST_FIELD
        owners = shard_of(drawn, shards)
        for number, parts in enumerate(found):
            parts.append(drawn[owners == number])
    return [np.unique(np.concatenate(parts))[:keys] for parts in found]


class Load:
    """Sends importance; as a context, at a steady rate from a thread of its own.

    Args:
        connector: the broker.
        keys: the keys of each shard.
        rate: records a second and shard.
        record_keys: keys of a record.

    Attributes:
        sent: records of each shard.
        fill_records: records of each shard that `fill` sends.
    """

    def __init__(
        self, connector: Connector, keys: list[npt.NDArray[np.uint64]], *, rate: float, record_keys: int
    ) -> None:
        self._connector, self._keys, self._rate, self._record_keys = connector, keys, rate, record_keys
        self._topics = Topics(connector.prefix)
        self._random = np.random.default_rng(1)
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._send_steadily, name="load", daemon=True)
        self.sent = 0
        events = len(keys[0]) * REVIEW_EVENTS // REVIEW_CHANGES
        self.fill_records = 2 * events // min(_FILL_KEYS, len(keys[0])) + 2

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def fill(self, number: int) -> None:
        """Sends as many records to each shard as it needs to give each key a row."""
        with RecordProducer(self._connector, max_in_flight=_IN_FLIGHT) as producer:
            for _ in range(number):
                self._send(producer, _FILL_KEYS)

    def _send_steadily(self) -> None:
        try:
            with RecordProducer(self._connector, max_in_flight=_IN_FLIGHT) as producer:
                due_s = time.monotonic()
                while not self._ended.wait(max(0.0, due_s - time.monotonic())):
                    self._send(producer, self._record_keys)
                    due_s += 1 / self._rate
        except BaseException as error:  # noqa: BLE001  raised where the context ends
            self._failure = error

    def _send(self, producer: RecordProducer, size: int) -> None:
        """Sends one record to each shard."""
        topics, now_ms = self._topics, time.time_ns() // 1_000_000
        for number, keys in enumerate(self._keys):
            chosen = np.unique(self._random.choice(keys, size))
            batch = ImportanceBatch(
                keys=chosen,
                scores=np.ones(len(chosen), np.float32),
                fields=_FIELDS,
                source=Source(signal="gradient", topic=topics.clicks, partition=0, offset=self.sent),
                event_time_ms=now_ms,
                ingest_ms=now_ms,
            )
            value, headers = encode_importance(batch)
            producer.send(topics.importance, number, value, headers)
        self.sent += 1
