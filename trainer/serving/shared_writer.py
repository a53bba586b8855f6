"""`SharedWriter`: a replica's rows in memory that other processes of the host map, see `SharedReplica`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.errors import ReplicaError
from trainer.serving.dense_versions import DenseVersions
from trainer.serving.replica_state import ReplicaState
from trainer.serving.segments import DENSE, TABLES, Header, Segment, remove_segments, segment_path, write_segment
from trainer.serving.tables import ServedTables

__all__ = ["SharedWriter"]


class SharedWriter:
    """Writes the segments of a name, as the only one of the host.

    It takes over what a writer that was killed has left: its last tables stay until this one has tables, unless they
    are half written.

    Args:
        name: 1 to 100 of A-Z a-z 0-9 _ -.

    Raises:
        ReplicaError: another process writes that name, or the name or the machine does not do.
    """

    def __init__(self, name: str) -> None:
        self._name, self._header = name, Header(name, writes=True)
        words = self._header.words
        if words[TABLES] and not _is_whole(name, int(words[TABLES])):
            words[TABLES] = 0
        kept = {int(words[TABLES]), int(words[DENSE])}
        self._number = max(remove_segments(name, kept), *kept)
        self._segment: Segment | None = None
        self._dense: tuple[str, int] | None = None

    def update(self, state: ReplicaState) -> None:
        """Shares what is served now; to be called by the thread that writes it, after each change.

        Raises:
            ReplicaError: there is too little shared memory, or the rows are compressed.
        """
        if state.served is None:
            return
        if type(state.served) is not ServedTables:
            raise ReplicaError("a compressed export cannot be shared; each process may serve it by itself")
        self._place_dense(state.dense)
        if self._segment is None or state.served.sequence is not self._segment.arrays["sequence"]:
            self._place(state.served, state)
        self._note_partitions(self._segment, state)

    def _place(self, tables: ServedTables, state: ReplicaState) -> None:
        """Moves tables that are new, or have grown, to a segment of their own."""
        about = {"sequence": np.zeros(1, np.int64), "partitions": np.zeros((len(state.partitions), 3), np.int64)}
        segment = write_segment(self._next(), tables.shape.to_json(), {**tables.arrays(), **about})
        self._note_partitions(segment, state)
        tables.bind(segment.arrays, segment.arrays["sequence"])
        self._segment = segment
        self._announce(TABLES)

    def _place_dense(self, dense: DenseVersions) -> None:
        if self._dense == (dense.model, dense.version):
            return
        about = {"model": dense.model, "version": dense.version}
        write_segment(self._next(), about, {"data": np.frombuffer(dense.data, np.uint8)})
        self._dense = dense.model, dense.version
        self._announce(DENSE)

    def _next(self) -> Path:
        self._number += 1
        return segment_path(self._name, self._number)

    def _announce(self, kind: int) -> None:
        """Names the newest segment in the header, and removes the one before it, which readers may still map."""
        before, self._header.words[kind] = int(self._header.words[kind]), self._number
        if before:
            segment_path(self._name, before).unlink(missing_ok=True)

    def _note_partitions(self, segment: Segment | None, state: ReplicaState) -> None:
        assert segment is not None  # noqa: S101  `update` has placed the tables
        segment.arrays["partitions"][...] = [(one.step, one.time_ms, one.offset) for one in state.partitions]

    def close(self) -> None:
        """Removes the segments; readers go on with the rows that they have mapped."""
        if self._header.is_closed:
            return
        if self._header.is_current:
            self._header.words[[TABLES, DENSE]] = 0
            remove_segments(self._name, set())
            self._header.path.unlink()
        self._header.close()


def _is_whole(name: str, number: int) -> bool:
    """Whether no writer ended in the middle of a write to these tables."""
    try:
        return not int(Segment.read(segment_path(name, number)).arrays["sequence"][0]) & 1
    except FileNotFoundError:
        return False
