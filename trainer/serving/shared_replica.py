"""`SharedReplica`: serves the rows that a `Replica` of another process of the host follows, without a copy.

with SharedReplica("ctr") as shared:   # beside a process with Replica(config, share="ctr")
    vectors = shared.lookup(keys)
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from streams.records.embeddings import RowRecord
from trainer.errors import ReplicaError
from trainer.serving.predictor import Predictor
from trainer.serving.replica_state import PartitionState, ReplicaState
from trainer.serving.segments import DENSE, TABLES, Header, Segment, segment_path
from trainer.serving.shape import ServedShape
from trainer.serving.tables import INTERRUPTED, ServedTables

__all__ = ["SharedReplica"]

_TRIES, _FEW_KEYS = 3, 64  # a lookup of more keys that was disturbed so often goes on in halves
_PAUSE_S, _PATIENCE_S = 5e-5, 10.0
Result = TypeVar("Result")


class _Replaced(Exception):  # noqa: N818  not an error: the caller asks the tables that are there now
    """The tables are written no more, as others have taken their place."""


class _SharedTables(ServedTables):
    """Tables that another process writes.

    A read counts if no write began or ended meanwhile: the number `sequence` is the same before and after it, and
    even. So each part of a lookup sees its rows and their owners as one record wrote them, as with the lock of threads.

    Args:
        segment: the memory.
        check: is called while a write is under way; raises if it cannot end.
    """

    def __init__(self, segment: Segment, check: Callable[[], None]) -> None:
        super().__init__(ServedShape.from_json(segment.meta))
        self.bind(segment.arrays, segment.arrays["sequence"])
        self._check = check

    def _try(self, read: Callable[[], Result]) -> Result | None:
        """What was read; None if it was written meanwhile."""
        until_s = 0.0
        while (before := int(self.sequence[0])) & 1:
            until_s = until_s or time.monotonic() + _PATIENCE_S
            self._check()
            if before & INTERRUPTED:
                raise ReplicaError("shared rows: a write was interrupted; they are back after the writer's next write")
            if time.monotonic() > until_s:
                raise ReplicaError(
                    f"shared rows: the writer has been in one write for {_PATIENCE_S:.0f} s; is it stopped?"
                )
            time.sleep(_PAUSE_S)
        found = read()
        return found if int(self.sequence[0]) == before else None

    def _read(self, read: Callable[[], Result]) -> Result:
        while (found := self._try(read)) is None:
            pass
        return found

    def _find(
        self, keys: npt.NDArray[np.uint64], gates: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """See `ServedTables`; many keys in parts, if writes leave no time for all of them at once."""
        find = super()._find
        for _ in range(_TRIES) if len(keys) > _FEW_KEYS else itertools.count():
            if (found := self._try(lambda: find(keys, gates))) is not None:
                return found
        middle = len(keys) // 2
        first, second = self._find(keys[:middle], gates[:middle]), self._find(keys[middle:], gates[middle:])
        return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])

    @property
    def num_hot(self) -> int:
        """Keys with a unique row."""
        return len(self.owners())

    def owners(self) -> dict[int, int]:
        """The unique row of each key that has one."""
        keys, rows = self._read(self._router.items)
        return dict(zip(keys.tolist(), rows.tolist(), strict=True))

    def routed(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Whether each key (K,) has a unique row."""
        inside = super().routed
        return self._read(lambda: inside(keys))

    def quanta(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
        """See `ServedTables`."""
        inside = super().quanta
        return self._read(lambda: inside(keys))

    def _refuse(self) -> ReplicaError:
        return ReplicaError("shared rows can be looked up only; ask the process that follows the topic")

    def apply(self, records: Sequence[RowRecord]) -> None:  # noqa: ARG002  as in `ServedTables`
        """Refuses."""
        raise self._refuse()

    def digests(self) -> list[int]:
        """Refuses."""
        raise self._refuse()

    def take_changed(self) -> npt.NDArray[np.int64]:
        """Refuses."""
        raise self._refuse()

    def read_rows(
        self,
        rows: npt.NDArray[np.int64],  # noqa: ARG002
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]:
        """Refuses."""
        raise self._refuse()


class SharedReplica(Predictor):
    """The rows of a `Replica(..., share=NAME)` of another process of this host and user, mapped and never written.

    Guarantees:
        - Lookups are those of that replica, with its guarantees, in any number of threads and processes.
        - A lookup sees a new model, or rows that have moved, without a restart; also those of the next writer.
        - After the writer has ended, lookups go on with its last rows: `has_writer` is False, `staleness_ms` grows. If
          it was killed in the middle of a write, they raise until the next one has a model.

    Args:
        name: the name.

    Raises:
        ReplicaError: nothing is shared by that name, or by another user or version, or this machine is not an x86_64.
    """

    def __init__(self, name: str) -> None:
        super().__init__(ReplicaState(1), f"shared {name}")
        self._shared_name, self._header = name, Header(name, writes=False)
        self._numbers = {TABLES: 0, DENSE: 0}
        self._noted: npt.NDArray[np.int64] | None = None
        self._lock = threading.Lock()
        self._refresh()

    @property
    def has_writer(self) -> bool:
        """Whether the process that writes the rows, or the next one, lives."""
        self._refresh()
        with self._lock:
            return not self._header.is_closed and self._header.has_writer

    # ---- following the segments ----

    def _refresh(self) -> None:
        """Maps what the header names now."""
        with self._lock:
            if self._header.is_closed:
                raise ReplicaError(f"{self.name}: closed")
            if not self._header.has_writer and not self._header.is_current:
                self._find_next_writer()
            self._map(DENSE, self._take_dense)
            self._map(TABLES, self._take_tables)

    def _find_next_writer(self) -> None:
        try:
            header = Header(self._shared_name, writes=False)
        except ReplicaError:  # there is none yet: the rows that are mapped stay
            return
        self._header.close()
        self._header, self._numbers = header, {TABLES: 0, DENSE: 0}

    def _map(self, kind: int, take: Callable[[Segment], None]) -> None:
        while (number := int(self._header.words[kind])) != self._numbers[kind]:
            if number:
                try:
                    take(Segment.read(segment_path(self._shared_name, number)))
                except FileNotFoundError:  # the writer names another one now
                    if number == int(self._header.words[kind]):
                        raise ReplicaError(f"{self.name}: segment {number} was removed by someone else") from None
                    continue
            elif kind == TABLES and self.state.served is not None and int(self.state.served.sequence[0]) & 1:
                self.state.served = None  # a writer was killed in the middle of a write
            self._numbers[kind] = number

    def _take_tables(self, segment: Segment) -> None:
        self._noted = segment.arrays["partitions"]
        self.state.partitions = [PartitionState() for _ in self._noted]
        self.state.served = _SharedTables(segment, self._check)

    def _take_dense(self, segment: Segment) -> None:
        self.state.dense.load(segment.meta["version"], segment.meta["model"], segment.arrays["data"].tobytes())

    def _check(self) -> None:
        """Raises if the write that is under way cannot end."""
        with self._lock:
            header = self._header
            if int(header.words[TABLES]) != self._numbers[TABLES]:
                raise _Replaced
            if header.is_closed or header.has_writer:
                return
            if not header.is_current:
                raise _Replaced
            raise ReplicaError(f"{self.name}: the writer was killed in the middle of a write; start the next one")

    def _ask(self, ask: Callable[[ServedTables], Result]) -> Result:
        while True:
            with suppress(_Replaced):
                return ask(self.tables)

    # ---- serving ----

    @property
    def tables(self) -> ServedTables:
        """See `Predictor.tables`."""
        self._refresh()
        return super().tables

    @property
    def is_ready(self) -> bool:
        """See `Predictor.is_ready`."""
        self._refresh()
        return super().is_ready

    @property
    def why_not_ready(self) -> str | None:
        """See `Predictor.why_not_ready`; also that nobody writes the rows any more."""
        return (
            super().why_not_ready
            if self.has_writer
            else f"{self.name}: the process that follows the topic has ended, or follows no more"
        )

    def lookup(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
        """See `Predictor.lookup`.

        Raises:
            KeyRangeError: the field of a key is not published.
            ReplicaError: there is no complete model yet, the writer was killed in the middle of a write, an exception
                has ended its last write, or it does not end one within 10 s.
        """
        return self._ask(lambda tables: tables.lookup(keys))

    @property
    def num_hot(self) -> int:
        """See `Predictor.num_hot`."""
        return self._ask(lambda tables: tables.num_hot)

    def owners(self) -> dict[int, int]:
        """See `Predictor.owners`."""
        return self._ask(lambda tables: tables.owners())

    def _take_notes(self) -> None:
        self._refresh()
        if self._noted is not None:
            for state, noted in zip(self.state.partitions, self._noted.tolist(), strict=True):
                state.step, state.time_ms, state.offset = noted

    def as_of(self) -> dict[str, Any]:
        """See `Predictor.as_of`."""
        self._take_notes()
        return super().as_of()

    def staleness_ms(self) -> float | None:
        """See `Predictor.staleness_ms`."""
        self._take_notes()
        return super().staleness_ms()

    def close(self) -> None:
        """Ends; the memory is given back with the last array of it."""
        with self._lock:
            self._header.close()

    def __enter__(self) -> SharedReplica:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
