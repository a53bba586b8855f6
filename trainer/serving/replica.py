"""`Replica`: serves a trainer's embedding from the topic `embeddings`, without torch.

>>> from trainer.serving.replica import Replica
>>> from streams.clients.in_memory import InMemoryBroker
>>> replica = Replica(InMemoryBroker({"hotstream.embeddings": 1}))
>>> replica.is_ready
False
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from streams.clients.connector import Connector
from streams.clients.partition_reader import open_partition_log
from streams.clients.topic_reader import TopicReader
from streams.errors import BrokerError
from streams.records.embeddings import EmbeddingRecord, decode_embedding
from streams.records.headers import BadRecord
from streams.telemetry.bad_record_log import BadRecordLog
from streams.topics import Topics
from trainer.errors import BagError, ReplicaError
from trainer.serving.replica_state import ReplicaState
from trainer.serving.tables import ServedTables

__all__ = ["Replica", "sum_bags"]

logger = logging.getLogger(__name__)


class Replica:
    """A copy of a trainer's embedding that follows it.

    Guarantees:
        - The vector of a key is that of a moment of the trainer: row and owner arrive in one record. A demoted key
          shares rows from then on; a promoted key shows its old vector until its row has arrived.
        - Vectors are the trainer's on a CPU, bit for bit, for the rows that were read.
        - Lookups in any number of threads beside one that calls `poll`, or beside `start`.

    Usage::

        with Replica(KafkaConfig()) as replica:
            replica.catch_up()
            replica.start()                  # follows in a thread
            vectors = replica.lookup(keys)   # (..., D) float32

    Args:
        connector: the broker.

    Attributes:
        state: tables, digests and counts.
        num_bad: malformed records.

    Raises:
        BrokerError: no broker answers within 10 s.
        TopicError: the topic is missing.
    """

    def __init__(self, connector: Connector) -> None:
        self._topic = Topics(connector.prefix).embeddings
        self._reader = TopicReader(connector, self._topic)
        self._connector = connector
        self.state = ReplicaState(len(self._reader.partitions))
        for partition, end in enumerate(self._ends()):
            self.state.partitions[partition].proves_from = end
        self.num_bad = 0
        self._bad_records = BadRecordLog(logger)
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._stopped = threading.Event()
        self._dense: tuple[int, Any] | None = None

    def _ends(self) -> list[int]:
        with open_partition_log(self._connector) as log:
            return [end for _, end in log.all_bounds(self._topic, len(self._reader.partitions))]

    # ---- following ----

    def poll(self, timeout_ms: int = 100) -> int:
        """Reads and applies new records; returns their number.

        Raises:
            BrokerError: the broker refuses.
            ReplicaError: the shape of the model is malformed, or of a newer version.
        """
        fetched = self._reader.poll(timeout_ms)
        for partition, records in fetched.items():
            decoded = [(record.offset, known) for record in records if (known := self._decode(record)) is not None]
            self.state.take(partition, decoded)
        for partition, offset in self._reader.positions().items():  # compaction may have removed the last records
            self.state.partitions[partition].offset = offset
        self.state.settle()
        return sum(len(records) for records in fetched.values())

    def _decode(self, record: Any) -> EmbeddingRecord | None:
        decoded = decode_embedding(record.key, record.value, record.headers)
        if isinstance(decoded, BadRecord):
            self.num_bad += 1
            self._bad_records.add(record, decoded.reason)
            return None
        return decoded

    def catch_up(self, *, timeout_s: float = 60.0) -> None:
        """Reads up to the present end of the topic.

        Raises:
            BrokerError: the end is not reached within `timeout_s`.
        """
        ends, deadline_s = self._ends(), time.monotonic() + timeout_s
        while any(self._reader.positions()[number] < end for number, end in enumerate(ends)):
            if time.monotonic() > deadline_s:
                raise BrokerError(
                    f"{self._topic}: at {self._reader.positions()} after {timeout_s:.0f} s, expected {ends}"
                )
            self.poll()

    def start(self) -> None:
        """Follows in a thread until `close`; a failure of it is raised by the next `lookup`."""
        self._thread = threading.Thread(target=self._follow, name="replica", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            while not self._stopped.is_set():
                if not self.poll(100):
                    self._stopped.wait(0.01)
        except Exception as error:  # noqa: BLE001  `lookup` raises it
            self._failure = error

    def close(self) -> None:
        """Stops following, and disconnects; lookups go on with the rows that were read."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self._reader.close()

    def __enter__(self) -> Replica:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- serving ----

    @property
    def is_ready(self) -> bool:
        """Whether a complete model was read."""
        return self.state.served is not None

    @property
    def _tables(self) -> ServedTables:
        if self._failure is not None:
            raise ReplicaError(
                f"{self._topic}: the replica does not follow any more ({self._failure})"
            ) from self._failure
        if self.state.served is None:
            raise ReplicaError(f"{self._topic}: no complete model was read yet; call `catch_up` beside a trainer")
        return self.state.served

    def lookup(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
        """The vectors (..., D) float32 of feature keys of any shape.

        Raises:
            KeyRangeError: the field of a key is not published.
            ReplicaError: no complete model was read yet, or following has failed.
        """
        return self._tables.lookup(keys)

    def predict(
        self,
        dense: npt.NDArray[np.float32],
        keys: npt.NDArray[np.uint64],
        offsets: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[np.float32]:
        """The logits (B,) of dense (B, M) and keys (B, F) by the newest dense part; needs torch.

        Args:
            dense: dense features.
            keys: (B, F), or (N,) with `offsets`.
            offsets: (B F,) where the values of each row and field begin, as `hotstream.key_bags` gives them; their
                vectors are summed, as the trainer does.

        Raises:
            KeyRangeError: as `lookup`.
            BagError: the offsets do not fit the keys.
            ReplicaError: as `lookup`, or no dense part of this model was read yet.
        """
        from trainer.serving.dense_part import compute, load_dense_part  # noqa: PLC0415  torch is optional

        tables, versions = self._tables, self.state.dense
        if not versions.version or versions.model != f"{tables.shape.fingerprint:016x}":
            raise ReplicaError(f"{self._topic}: no dense part of this model was read yet")
        if self._dense is None or self._dense[0] != versions.version:
            self._dense = (versions.version, load_dense_part(tables.shape, versions.data))
        vectors = tables.lookup(keys)
        if offsets is not None:
            vectors = sum_bags(vectors, offsets, tables.shape.layout.num_fields)
        return compute(self._dense[1], dense, vectors)

    # ---- what is known of it ----

    def as_of(self) -> dict[str, Any]:
        """What was read: the trained rows, the trainer's time and the offsets by partition, the dense version."""
        states = self.state.partitions
        return {
            "step": min(state.step for state in states),
            "time_ms": min(state.time_ms for state in states),
            "offsets": {number: state.offset for number, state in enumerate(states)},
            "dense_version": self.state.dense.version,
        }

    def staleness_ms(self) -> float | None:
        """The age of the oldest partition's newest record; a trainer with nothing to send sends digests each second."""
        oldest = min(state.time_ms for state in self.state.partitions)
        return None if not oldest else max(0.0, time.time() * 1000 - oldest)

    def hits(self) -> dict[str, dict[str, int]]:
        """Lookups by field and by the tier that served them."""
        tables = self._tables
        names = [name for name, _ in tables.shape.fields]
        return {
            name: {"hot": int(hot), "shared": int(shared)}
            for name, (hot, shared) in zip(names, tables.hits, strict=True)
        }

    def verify(self) -> list[bool | None]:
        """Whether the rows in memory have the trainer's last digest, by partition; None while rows are under way."""
        return self.state.check_rows()


def sum_bags(
    vectors: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64], num_fields: int
) -> npt.NDArray[np.float32]:
    """The sums (B, F, D) of the vectors (N, D) of bags that begin at offsets (B F,).

    Raises:
        BagError: a bag is empty, or the offsets do not begin at 0 or are not those of whole rows.
    """
    ends = np.append(offsets[1:], len(vectors))
    if len(offsets) % num_fields or (len(offsets) and offsets[0] != 0) or (ends <= offsets).any():
        raise BagError(
            f"offsets: got {len(offsets)}, expected a bag of one or more keys for each row and each of {num_fields} "
            "fields, from 0 on; hotstream.key_bags gives a key to a field without a value"
        )
    sums: npt.NDArray[np.float32] = np.add.reduceat(vectors, offsets, axis=0) if len(offsets) else vectors
    return sums.reshape(-1, num_fields, vectors.shape[1])
