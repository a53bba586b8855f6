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
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from streams.assignments.rereading import Losses
from streams.clients.connector import Connector
from streams.clients.partition_reader import open_partition_log
from streams.clients.topic_identity import require_topics
from streams.clients.topic_reader import TopicReader
from streams.errors import BrokerError
from streams.records.embeddings import EmbeddingRecord, decode_embedding
from streams.records.headers import BadRecord
from streams.telemetry.bad_record_log import BadRecordLog
from streams.telemetry.figures import Figure
from streams.telemetry.monitor import Watched
from streams.topics import Topics
from trainer.errors import ReplicaError
from trainer.serving.exported import Exported
from trainer.serving.predictor import Predictor
from trainer.serving.published import Published
from trainer.serving.replica_state import ReplicaState
from trainer.serving.rereading import read_rows_again
from trainer.serving.shared_writer import SharedWriter
from trainer.serving.tables import ServedTables

__all__ = ["Replica"]

logger = logging.getLogger(__name__)


class Replica(Predictor):
    """A copy of a trainer's embedding that follows it.

    Guarantees:
        - The vector of a key is that of a moment of the trainer: row and owner arrive in one record. A demoted key
          shares rows from then on; a promoted key shows its old vector until its row has arrived.
        - Vectors are the trainer's on a CPU, bit for bit, for the rows that were read.
        - Lookups in any number of threads beside one that calls `poll`, or beside `start`.
        - A partition whose digest differs is read again from its beginning, once, as tombstones may have been deleted
          while the replica was away.

    Usage::

        with Replica(KafkaConfig()) as replica:
            replica.catch_up()
            replica.start()                  # follows in a thread
            vectors = replica.lookup(keys)   # (..., D) float32

    Args:
        connector: the broker.
        export: an export to serve at once; the topic's later records continue it.
        share: a name by which other processes of this host may serve the same rows (`SharedReplica`).

    Attributes:
        state: tables, digests and counts.
        num_bad: malformed records.
        num_behind: records that the last `poll` left unread, as far as is known.
        num_rereads: partitions that were read again.

    Raises:
        BrokerError: no broker answers within 10 s.
        CheckpointError: the export is damaged, or of another version.
        ReplicaError: another process shares rows by that name, or this machine cannot (see `SharedReplica`).
        TopicError: the topic is missing.
    """

    def __init__(self, connector: Connector, *, export: Path | None = None, share: str | None = None) -> None:
        self._topic = Topics(connector.prefix).embeddings
        exported = None if export is None else Exported.read(export)
        self._reader = TopicReader(connector, self._topic)
        self._connector = connector
        super().__init__(ReplicaState(len(self._reader.partitions)), self._topic)
        ends = self._ends()
        for partition, end in enumerate(ends):
            self.state.partitions[partition].proves_from = end
        if exported is not None:
            self._begin_with(exported, ends)
        self._shared = None if share is None else self._open_shared(share)
        self.num_bad = self.num_behind = self.num_rereads = 0
        self._losses = Losses()
        self._bad_records = BadRecordLog(logger)
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._stopped = threading.Event()

    def _begin_with(self, exported: Exported, ends: list[int]) -> None:
        """Serves an export, and skips the records that are not newer, if it knows this topic."""
        exported = exported.of_partitions(len(ends))
        self.state.load(exported)
        published = exported.published
        if published is None or not self._is_topic_of(published, ends):
            logger.warning("%s: not the topic of the export, so it is read from its beginning", self._topic)
            return
        self._reader.seek(published.offsets)

    def _open_shared(self, name: str) -> SharedWriter:
        try:
            return SharedWriter(name)
        except ReplicaError:
            self._reader.close()
            raise

    def _is_topic_of(self, published: Published, ends: list[int]) -> bool:
        topic_id = require_topics(self._connector, [self._topic])[self._topic].topic_id
        return topic_id == published.topic_id and all(published.offsets[one] <= end for one, end in enumerate(ends))

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
        self.num_behind = self._reader.num_behind
        self._heal()
        self.state.settle()
        if self._shared is not None:
            self._shared.update(self.state)
        return sum(len(records) for records in fetched.values())

    def _heal(self) -> None:
        """Reads each partition again whose digest proves a loss, up to the offset that was read."""
        for partition, state in enumerate(self.state.partitions):
            fingerprint = self.state.fingerprint
            if not self._losses.is_due(partition, differs=state.verified is False) or fingerprint is None:
                continue
            logger.warning("%s[%d]: a digest differs, so a row was lost; reading it again", self._topic, partition)
            with open_partition_log(self._connector) as log:
                rows = read_rows_again(log, self._topic, partition, state.offset, fingerprint)
            self.state.replace(partition, rows)
            self.num_rereads += 1

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
        """Follows in a thread until `close`; a failure of it is raised by the next `lookup`, and ends the sharing."""
        self._thread = threading.Thread(target=self._follow, name="replica", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            while not self._stopped.is_set():
                if not self.poll(100):
                    self._stopped.wait(0.01)
        except Exception as error:  # noqa: BLE001  `lookup` raises it
            self._failure = error
            if self._shared is not None:  # readers go on with the rows that they have mapped, and know that they age
                self._shared.close()
                self._shared = None

    def close(self) -> None:
        """Stops following, and disconnects; lookups go on with the rows that were read."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self._reader.close()
        if self._shared is not None:
            self._shared.close()

    def __enter__(self) -> Replica:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def why_not_live(self) -> str | None:
        """See `Predictor.why_not_live`."""
        return None if self._failure is None else f"{self.name}: the replica does not follow any more ({self._failure})"

    @property
    def tables(self) -> ServedTables:
        """See `Predictor.tables`."""
        if self.why_not_live is not None:
            raise ReplicaError(self.why_not_live) from self._failure
        return super().tables

    def watched(self) -> Watched:
        """What a process that serves it shows beside its figures."""
        return Watched(
            connector=self._connector, topic=self._topic, num_partitions=len(self.state.partitions),
            offsets=lambda: {number: state.offset for number, state in enumerate(self.state.partitions)},
            figures=tuple, is_started=lambda: self.is_ready,
        )  # fmt: skip

    def figures(self) -> Iterator[Figure]:
        """See `Predictor.figures`."""
        yield from super().figures()
        yield Figure("replica_lag_records", self.num_behind)
        yield Figure("replica_bad_records_total", self.num_bad)
        yield Figure("replica_rereads_total", self.num_rereads)
        for shard, state in enumerate(self.state.partitions):
            yield Figure("replica_verified", state.verified, {"shard": str(shard)})
