"""The formats of compressed rows by name. A new one is a file of its own and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streams.keys import FIELD_SHIFT
from trainer.errors import CheckpointError
from trainer.serving.compression.clusters import Clusters
from trainer.serving.compression.codec import Codec, take
from trainer.serving.compression.low_rank import LowRank
from trainer.serving.compression.product import Product
from trainer.serving.compression.rounded import Int4, Int8
from trainer.serving.exported import Exported

__all__ = ["FORMATS", "TABLES", "Compressed", "read_gates", "unique_groups"]

FORMATS: Mapping[str, type[Codec]] = {codec.name: codec for codec in (Clusters, Product, Int4, Int8, LowRank)}
TABLES = ("unique", "shared.level_1", "shared.level_2")


def unique_groups(exported: Exported) -> npt.NDArray[np.int64]:
    """The group (R,) of each unique row: its owner's field, counted from 0; 0 without an owner.

    Raises:
        CheckpointError: the router names a field or a row that is not there, or a row for two keys.
    """
    layout = exported.shape.layout
    keys = take(exported.router, "keys", (np.int64,), (None,)).view(np.uint64)
    rows = take(exported.router, "values", (np.int32,), (len(keys),))
    fields = (keys >> FIELD_SHIFT).astype(np.int64) - 1
    if len(keys) and not (fields.min() >= 0 and fields.max() < layout.num_fields):
        raise CheckpointError(f"router: got a field beyond {layout.num_fields}")
    if len(keys) and not (rows.min() >= 0 and rows.max() < layout.capacity_rows):
        raise CheckpointError(f"router: got a row beyond {layout.capacity_rows}")
    if len(np.unique(rows)) < len(rows):
        raise CheckpointError("router: got two keys of one row")
    groups = np.zeros(layout.capacity_rows, np.int64)
    groups[rows] = fields
    return groups


def read_gates(exported: Exported) -> npt.NDArray[np.float32]:
    """The gates (slices x F, 3) of a compressed export.

    Raises:
        CheckpointError: they are missing, of another shape or dtype, or not finite.
    """
    return take(exported.rows, "gate", (np.float32,), (exported.shape.num_gates, 3))


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """The three tables of an embedding.

    Attributes:
        unique: the rows of hot keys, whose groups are their fields.
        level_1: the rows of level 1, int8 in every format: few rows, which serve many keys each.
        level_2: the rows of level 2, one group.
    """

    unique: Codec
    level_1: Codec
    level_2: Codec

    @classmethod
    def of(cls, exported: Exported) -> Compressed:
        """The tables of a compressed export.

        Raises:
            CheckpointError: its format is unknown, or an array does not fit.
        """
        kind, layout, dim = FORMATS.get(exported.compression or ""), exported.shape.layout, exported.shape.dim
        if kind is None:
            raise CheckpointError(
                f"compression: got {exported.compression!r}, expected one of {', '.join(FORMATS)}; upgrade hotstream"
            )
        sizes = (layout.capacity_rows, layout.level_1_rows, layout.level_2_rows)
        groups = (layout.num_fields, 1, 1)
        kinds: tuple[type[Codec], ...] = (kind, Int8, kind)
        tables = [
            codec.load(_within(exported, table), num_rows=size, dim=dim, num_groups=count)
            for table, codec, size, count in zip(TABLES, kinds, sizes, groups, strict=True)
        ]
        tables[0].check_groups(unique_groups(exported))
        tables[2].check_groups(np.zeros(layout.level_2_rows, np.int64))
        return cls(unique=tables[0], level_1=tables[1], level_2=tables[2])

    @property
    def tables(self) -> tuple[Codec, Codec, Codec]:
        """In the order of `TABLES`."""
        return self.unique, self.level_1, self.level_2

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(table.nbytes for table in self.tables)


def _within(exported: Exported, table: str) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of a table by the names that its codec gave them."""
    start = f"{table}."
    return {name.removeprefix(start): array for name, array in exported.rows.items() if name.startswith(start)}
