"""`CompressedTables`: serves a compressed export as `ServedTables` serves the rows of a trainer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from streams.keys import FIELD_SHIFT
from streams.records.embeddings import RowRecord
from trainer.embedding.stores.kernels import row_kernels
from trainer.embedding.stores.two_level_kernels import two_level_kernels
from trainer.errors import ReplicaError
from trainer.serving.addresses import shared_addresses
from trainer.serving.compression.codec import Vectors
from trainer.serving.compression.formats import Compressed, read_gates
from trainer.serving.exported import Exported
from trainer.serving.shape import row_form
from trainer.serving.tables import Rows, ServedTables

__all__ = ["CompressedTables"]

_NO_SCALES = np.empty(0, np.uint16)


class CompressedTables(ServedTables):
    """Compressed rows in memory, decoded for each lookup.

    Vectors are those of a trainer whose float32 rows are the decoded ones, bit for bit: the same kernels read both.

    Args:
        exported: a compressed export.

    Attributes:
        compressed: its rows.

    Raises:
        CheckpointError: an array does not fit.
    """

    def __init__(self, exported: Exported) -> None:
        compressed = Compressed.of(exported)  # which proves that the sizes are those of arrays
        super().__init__(exported.shape)
        shape = exported.shape
        self.unique, self.levels = Rows(row_form("float32", shape.dim), 0), {}  # what was allocated was never touched
        self.compressed, self.gates = compressed, read_gates(exported).copy()
        keys, rows = exported.router["keys"].view(np.uint64), exported.router["values"]
        mine = np.isin(keys >> FIELD_SHIFT, shape.published)
        self._router.put(keys[mine], rows[mine])
        self._owners[rows[mine]] = keys[mine]
        self._is_changed[rows[mine]] = True
        self._gather_unique = row_kernels(shape.dim).gather
        self._gather_shared = two_level_kernels(shape.dim, self._parts).gather

    @property
    def is_complete(self) -> bool:
        """True: an export is whole."""
        return True

    def apply(self, records: Sequence[RowRecord]) -> None:
        """Refuses.

        Raises:
            ReplicaError: always.
        """
        raise ReplicaError(f"a compressed export cannot be continued, got {len(records)} records; follow the topic")

    def digests(self) -> list[int]:
        """Refuses: compressed rows have no digest of the trainer's.

        Raises:
            ReplicaError: always.
        """
        raise ReplicaError("compressed rows have no digests")

    def quanta(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
        """0 (K,): there is no common step."""
        return np.zeros(len(keys), np.float32)

    def _find(
        self, keys: npt.NDArray[np.uint64], gates: npt.NDArray[np.uint8]
    ) -> tuple[Vectors, npt.NDArray[np.bool_]]:
        """As `ServedTables._find`; each row is decoded with its own field: another one has no such centroid."""
        out, rows = np.empty((len(keys), self.shape.dim), np.float32), self._router.get(keys)
        is_hot = rows >= 0
        hot, cold = np.flatnonzero(is_hot), np.flatnonzero(~is_hot)
        out[hot] = self._read_unique(rows[hot], gates[hot])
        out[cold] = self._read_shared(keys[cold], gates[cold])
        return out, is_hot

    def _read_unique(
        self, rows: npt.NDArray[np.int32], gates: npt.NDArray[np.uint8], out: Vectors | None = None
    ) -> Vectors:
        """As `ServedTables._read_unique`."""
        out = np.empty((len(rows), self.shape.dim), np.float32) if out is None else out
        values = self.compressed.unique.decode(rows, gates % self.shape.layout.num_fields)
        each = np.arange(len(rows), dtype=np.int32)[:, None]
        self._gather_unique(values, _NO_SCALES, each, gates, self.gates[:, :1], None, out)
        return out

    def _read_shared(
        self, keys: npt.NDArray[np.uint64], gates: npt.NDArray[np.uint8], out: Vectors | None = None
    ) -> Vectors:
        """As `ServedTables._read_shared`: the rows of each key are decoded, as tables of K rows of their own."""
        out = np.empty((len(keys), self.shape.dim), np.float32) if out is None else out
        addresses = shared_addresses(self.shape, keys)
        no_groups = np.zeros(len(keys), np.int64)
        first = self.compressed.level_1.decode(addresses[:, 0], no_groups)
        second = np.zeros((len(keys) if self._parts else 0, self.shape.dim), np.float32)
        bounds = [part * self.shape.dim // max(1, self._parts) for part in range(self._parts + 1)]
        for part, (start, stop) in enumerate(pairwise(bounds)):
            rows = addresses[:, 1 + part]
            second[:, start:stop] = self.compressed.level_2.decode(rows, no_groups, slice(start, stop))
        each = np.repeat(np.arange(len(keys), dtype=np.int32)[:, None], 1 + self._parts, axis=1)
        self._gather_shared(first, _NO_SCALES, second, _NO_SCALES, each, gates, self.gates[:, 1:], out)
        return out
