"""`ServedTables`: the rows of a published embedding in memory, and their lookup; without torch.

The kernels are those of the trainer on a CPU, so that vectors are equal to its own, bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from sketch.keymap import ABSENT, KeyMap
from streams.keys import FIELD_SHIFT
from streams.records.embeddings import RowRecord
from trainer.embedding.stores import half_width_kernels, int4_kernels
from trainer.embedding.stores.kernels import row_kernels
from trainer.embedding.stores.two_level_kernels import two_level_kernels
from trainer.errors import KeyRangeError, ReplicaError
from trainer.serving.addresses import PARTS, gate_rows, shared_addresses
from trainer.serving.shape import RowForm, ServedShape, row_form
from trainer.serving.terms import add_modulo, row_terms

__all__ = ["INTERRUPTED", "Rows", "ServedTables"]

INTERRUPTED = 1 << 62  # bit of `sequence`: its write was ended by an exception, so that nobody waits for its end

_PIECE = 4096  # rows that are written under one lock
_GATHERS: Mapping[str, Callable[..., None]] = {"int4": int4_kernels.gather, "half_width": half_width_kernels.gather}


class Rows:
    """R rows in their stored form.

    Args:
        form: the form of a row.
        num_rows: R.

    Attributes:
        values: (R, W).
        scales: (R,) uint16, (0,) without scales.
    """

    def __init__(self, form: RowForm, num_rows: int) -> None:
        self.form = form
        self.values = np.zeros((num_rows, form.width), form.dtype)
        self.scales = np.zeros(num_rows if form.has_scales else 0, np.uint16)

    def write(self, rows: Any, bodies: npt.NDArray[np.uint8]) -> None:
        """Overwrites rows (K,) with bodies (K, bytes a row)."""
        size = self.values.itemsize * self.form.width
        self.values[rows] = np.ascontiguousarray(bodies[:, :size]).view(self.form.dtype)
        if self.form.has_scales:
            self.scales[rows] = np.ascontiguousarray(bodies[:, size:]).view(np.uint16)[:, 0]

    def read(self, rows: Any) -> npt.NDArray[np.uint8]:
        """The bodies (K, bytes a row) of rows (K,)."""
        return join_rows(self.values[rows], self.scales[rows] if self.form.has_scales else self.scales)


def _scales(words: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """The values of bfloat16 words."""
    return (words.astype(np.uint32) << 16).view(np.float32)


def join_rows(values: npt.NDArray[Any], scales: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The bodies (K, bytes a row) of values (K, W) and scales (K,) or (0,)."""
    parts = [np.ascontiguousarray(values).view(np.uint8)]
    if len(scales):
        parts.append(np.ascontiguousarray(scales)[:, None].view(np.uint8))
    return np.concatenate(parts, axis=1)


class ServedTables:
    """The tables of one shape.

    Guarantee: each lookup sees each of its rows, and its owner, as one record wrote them.

    Args:
        shape: the sizes and formats.

    Attributes:
        hits: (F, 2) int64, lookups by field that unique rows and that shared rows served.
        sequence: (1,) int64, odd while rows are written; for readers in other processes, who cannot take the lock.
    """

    def __init__(self, shape: ServedShape) -> None:
        self.shape, layout, dim = shape, shape.layout, shape.dim
        self._lock, self.sequence = threading.Lock(), np.zeros(1, np.int64)
        self._router = KeyMap()
        self._owners = np.zeros(layout.capacity_rows, np.uint64)
        self._is_changed = np.zeros(layout.capacity_rows, np.bool_)
        self.unique = Rows(row_form(shape.hot_store, dim), layout.capacity_rows)
        shared = row_form(shape.row_format, dim)
        self.levels = {"1": Rows(shared, layout.level_1_rows), "2": Rows(shared, layout.level_2_rows)}
        self.gates = np.ones((shape.num_gates, 3), np.float32)
        self._has: dict[str, set[int]] = {"1": set(), "2": set(), "g": set()}
        self._parts = PARTS if layout.level_2_rows else 0
        self._gather_unique = _GATHERS.get(shape.hot_store) or row_kernels(dim).gather
        self._gather_shared = two_level_kernels(dim, self._parts).gather
        self.hits = np.zeros((layout.num_fields, 2), np.int64)
        self._is_published = np.isin(np.arange(256), shape.published)

    @property
    def num_hot(self) -> int:
        """Keys with a unique row."""
        return len(self._router)

    def owners(self) -> dict[int, int]:
        """The unique row of each key that has one."""
        with self._lock:
            keys, rows = self._router.items()
        return dict(zip(keys.tolist(), rows.tolist(), strict=True))

    @property
    def is_complete(self) -> bool:
        """Whether all shared rows and the gates were read."""
        return all(len(has) == len(self.shape.numbers_of(kind)) for kind, has in self._has.items())

    # ---- memory of several processes ----

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `lookup` reads, by name."""
        stores = {"unique": self.unique, **{f"level_{kind}": rows for kind, rows in self.levels.items()}}
        return {
            "router.keys": self._router.keys, "router.values": self._router.values, "gates": self.gates,
            **{f"{name}.values": rows.values for name, rows in stores.items()},
            **{f"{name}.scales": rows.scales for name, rows in stores.items()},
        }  # fmt: skip

    def bind(self, arrays: Mapping[str, npt.NDArray[Any]], sequence: npt.NDArray[np.int64]) -> None:
        """Goes on in other memory that has the same contents."""
        with self._lock:
            self._router.keys, self._router.values = arrays["router.keys"], arrays["router.values"]
            self.gates, self.sequence = arrays["gates"], sequence
            stores = {"unique": self.unique, **{f"level_{kind}": rows for kind, rows in self.levels.items()}}
            for name, rows in stores.items():
                rows.values, rows.scales = arrays[f"{name}.values"], arrays[f"{name}.scales"]

    # ---- writing ----

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Keeps lookups of this process out, and tells those of others, until a body has ended without an exception."""
        with self._lock:
            keys = self._router.keys
            number = int(self.sequence[0]) & ~INTERRUPTED
            self.sequence[0] = number + 1 + (number & 1)  # odd, also after a write that was interrupted
            try:
                yield
            except BaseException:
                self.sequence[0] |= INTERRUPTED
                raise
            finally:
                if self._router.keys is not keys:  # it grew out of that memory, whose number stays odd for ever
                    self.sequence = np.ones(1, np.int64)
            self.sequence[0] += 1

    def apply(self, records: Sequence[RowRecord]) -> None:
        """Applies records in order.

        Raises:
            ReplicaError: a record has another size or number than the shape allows.
        """
        latest: dict[int, RowRecord] = {}
        for record in records:
            if record.kind == "u":
                self._check_unique(record)
                latest.pop(record.number, None)  # so that the latest record of a key comes last
                latest[record.number] = record
            else:
                self._apply_shared(record)
        unique = list(latest.values())
        for start in range(0, len(unique), _PIECE):
            self._apply_unique(unique[start : start + _PIECE])

    def _check_unique(self, record: RowRecord) -> None:
        if record.number >= len(self._owners):
            raise ReplicaError(f"unique row {record.number}: expected less than {len(self._owners)}")
        size = self.unique.form.row_bytes
        if record.body is not None and len(record.body) != size:
            raise ReplicaError(f"unique row {record.number}: got {len(record.body)} bytes, expected {size}")

    def _apply_unique(self, records: list[RowRecord]) -> None:
        """Writes rows and their owners together."""
        rows = np.array([record.number for record in records], np.int64)
        keys = np.array([record.feature for record in records], np.uint64)
        bodies = b"".join(record.body for record in records if record.body is not None)
        with self._writing():
            before = self._owners[rows]
            routed = self._router.get(before)
            self._router.remove(before[(before != keys) & (routed == rows)])
            self._owners[rows] = keys
            self._is_changed[rows] = True
            used = keys != 0
            if used.any():
                self.unique.write(rows[used], np.frombuffer(bodies, np.uint8).reshape(int(used.sum()), -1))
                self._router.put(keys[used], rows[used].astype(np.int32))

    def _apply_shared(self, record: RowRecord) -> None:
        body = np.frombuffer(record.body or b"", np.uint8)
        rows = self.shape.block(record.kind, record.number)
        row_bytes = self.gates[0].nbytes if record.kind == "g" else self.levels[record.kind].form.row_bytes
        size = row_bytes * (rows.stop - rows.start)
        if len(body) != size:
            raise ReplicaError(f"{record.kind} {record.number}: got {len(body)} bytes, expected {size}")
        with self._writing():
            if record.kind == "g":
                self._set_gates(rows, body.view(np.float32).reshape(-1, self.gates.shape[1]))
            else:
                self.levels[record.kind].write(rows, body.reshape(rows.stop - rows.start, -1))
            self._has[record.kind].add(record.number)

    def _set_gates(self, rows: slice, gates: npt.NDArray[np.float32]) -> None:
        """Replaces rows of the gates, which changes the vectors of the hot keys that read them."""
        differs = np.zeros(len(self.gates), np.bool_)
        differs[rows] = gates[:, 0] != self.gates[rows, 0]
        owned = np.flatnonzero(self._owners)
        self._is_changed[owned] |= differs[self._gates_of(self._owners[owned])]
        self.gates[rows] = gates

    def _gates_of(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        """The rows of the gates of keys (K,)."""
        return gate_rows(self.shape, keys, ((keys >> FIELD_SHIFT) - np.uint64(1)).astype(np.uint8))

    # ---- reading ----

    def take_changed(self) -> npt.NDArray[np.int64]:
        """The unique rows whose vector or owner may have changed since they were taken last, in order."""
        with self._lock:
            rows = np.flatnonzero(self._is_changed)
            self._is_changed[rows] = False
        return rows

    def note_changed(self, rows: npt.NDArray[np.int64]) -> None:
        """Lets unique rows (K,) be taken again."""
        with self._lock:
            self._is_changed[rows] = True

    def read_rows(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]:
        """The owners (K,) of unique rows (K,), 0 where there is none, and the vectors (U, D) of the owned ones."""
        with self._lock:
            keys = self._owners[rows]
            used = keys != 0
            return keys, self._read_unique(rows[used].astype(np.int32), self._gates_of(keys[used]))

    def lookup(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
        """The vectors (..., D) float32 of keys of any shape.

        Raises:
            KeyRangeError: the field of a key is not one of the model's, or its rows are not published.
        """
        flat = np.ascontiguousarray(keys, np.uint64).reshape(-1)
        numbers = (flat >> FIELD_SHIFT).astype(np.uint8)
        if not self._is_published[numbers].all():
            raise KeyRangeError(f"a key's field is not among the published ones, {list(self.shape.published)}")
        fields = numbers - np.uint8(1)
        gates = gate_rows(self.shape, flat, fields)
        with self._lock:
            out, is_hot = self._find(flat, gates)
            each, hot = (np.bincount(some, minlength=len(self.hits)) for some in (fields, fields[is_hot]))
            self.hits += np.stack([hot, each - hot], axis=1)
        return out.reshape(*np.shape(keys), self.shape.dim)

    def _find(
        self, keys: npt.NDArray[np.uint64], gates: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """The vectors (K, D) of keys (K,) and their `gate_rows`, and whether each (K,) has a unique row."""
        out, rows = np.empty((len(keys), self.shape.dim), np.float32), self._router.get(keys)
        is_hot = rows >= 0
        hot, cold = np.flatnonzero(is_hot), np.flatnonzero(~is_hot)
        if len(hot) > len(cold):  # the larger part is written without a copy, to the slots of the smaller one, too
            self._read_unique(np.maximum(rows, 0), gates, out)
            out[cold] = self._read_shared(keys[cold], gates[cold])
        else:
            self._read_shared(keys, gates, out)
            out[hot] = self._read_unique(rows[hot], gates[hot])
        return out, is_hot

    def _read_unique(
        self, rows: npt.NDArray[np.int32], gates: npt.NDArray[np.uint8], out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """The vectors of unique rows (K,), in `out` (K, D) if it is given."""
        out = np.empty((len(rows), self.shape.dim), np.float32) if out is None else out
        self._gather_unique(self.unique.values, self.unique.scales, rows[:, None], gates, self.gates[:, :1], None, out)
        return out

    def _read_shared(
        self, keys: npt.NDArray[np.uint64], gates: npt.NDArray[np.uint8], out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """The vectors of keys (K,) that share rows, in `out` (K, D) if it is given."""
        out = np.empty((len(keys), self.shape.dim), np.float32) if out is None else out
        addresses = shared_addresses(self.shape, keys)
        first, second = self.levels["1"], self.levels["2"]
        tables = (first.values, first.scales, second.values, second.scales)
        self._gather_shared(*tables, addresses, gates, self.gates[:, 1:], out)
        return out

    def quanta(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
        """How far apart two stored values are in the vector of each key (K,); 0 for formats of floating point.

        Of a key that shares rows it is that of its row of level 1.
        """
        rows, gates = self._router.get(keys), self._gates_of(keys)
        steps, addresses = np.zeros(len(keys), np.float32), shared_addresses(self.shape, keys)
        is_hot, shared = rows >= 0, self.levels["1"]
        if self.unique.form.has_scales:
            steps[is_hot] = _scales(self.unique.scales[rows[is_hot]]) * self.gates[gates[is_hot], 0]
        if shared.form.has_scales:
            steps[~is_hot] = _scales(shared.scales[addresses[~is_hot, 0]]) * self.gates[gates[~is_hot], 1]
        return np.abs(steps)

    def digests(self) -> list[int]:
        """The digest of each partition, computed from the rows in memory. O(rows)."""
        with self._lock:
            sums = self._unique_sums()
            for kind in "12g":
                for number in self._has[kind]:
                    body = self._body(kind, number)
                    term = row_terms(kind, np.array([number]), np.zeros(1, np.uint64), body[None])
                    sums[self.shape.partition_of(kind, number)] += int(term[0])
        return [one % (1 << 64) for one in sums]

    def _unique_sums(self) -> list[int]:
        used = np.flatnonzero(self._owners)
        partitions = self.shape.partitions_of(used)
        terms = row_terms("u", used, self._owners[used], self.unique.read(used))
        return [add_modulo(terms[partitions == number]) for number in range(self.shape.partitions)]

    def _body(self, kind: str, number: int) -> npt.NDArray[np.uint8]:
        if kind == "g":
            return self.gates[self.shape.block(kind, number)].reshape(-1).view(np.uint8)
        return self.levels[kind].read(self.shape.block(kind, number)).reshape(-1)

    def routed(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Whether each key (K,) has a unique row."""
        with self._lock:
            return self._router.get(keys) != ABSENT
