"""`ServedShape`: the sizes and formats of a published embedding, and where each of its records is; without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from streams.assignments.row_ranges import rows_of_shard
from trainer.embedding.layout import Layout
from trainer.errors import ReplicaError

__all__ = ["RowForm", "ServedShape", "row_form"]

_BLOCK_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class RowForm:
    """The form of a row in memory and in a record.

    Attributes:
        dtype: of the stored values; bfloat16 as uint16.
        width: stored values a row.
        has_scales: whether a bfloat16 scale (as uint16) follows.
    """

    dtype: Any
    width: int
    has_scales: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of a row with its scale."""
        return int(np.dtype(self.dtype).itemsize) * self.width + 2 * self.has_scales


def row_form(store: str, dim: int) -> RowForm:
    """The form of the rows of a store of `trainer.embedding.stores.registry`.

    Raises:
        ReplicaError: the store is unknown.
    """
    forms = {
        "float32": RowForm(dtype=np.float32, width=dim, has_scales=False),
        "bfloat16": RowForm(dtype=np.uint16, width=dim, has_scales=False),
        "int8": RowForm(dtype=np.int8, width=dim, has_scales=True),
        "int4": RowForm(dtype=np.uint8, width=(dim + 1) // 2, has_scales=True),
        "half_width": RowForm(dtype=np.float32, width=dim // 2, has_scales=False),
    }
    if store not in forms:
        raise ReplicaError(f"row format: got {store!r}, expected one of {', '.join(forms)}; upgrade the replica")
    return forms[store]


@dataclass(frozen=True, kw_only=True)
class ServedShape:
    """What a replica must know before it can read a row.

    Args:
        model: the name of the dense part.
        dim: D.
        row_format: the store of shared rows.
        hot_store: the store of unique rows.
        layout: the numbers of rows.
        fields: names and kinds, in the order of their numbers.
        num_dense: dense columns.
        partitions: partitions of the topic, the shards.
        published: the numbers of the fields, from 1, whose rows are published.
        run: grows with each process that publishes (its start in milliseconds since 1970), since a resumed trainer
            goes back to its checkpoint.
        slices: 1, or the number of shards if each has shared rows and gates of its own, as with a trainer of ranks
            (`trainer.serving.addresses`). The numbers of the layout are those of all of them together.

    Raises:
        ReplicaError: the rows cannot be divided among so many slices.
    """

    model: str
    dim: int
    row_format: str
    hot_store: str
    layout: Layout
    fields: tuple[tuple[str, str], ...]
    num_dense: int
    partitions: int
    published: tuple[int, ...]
    run: int
    slices: int = 1

    def __post_init__(self) -> None:
        layout, slices = self.layout, self.slices
        if slices < 1 or layout.level_1_per_field % slices or 0 < layout.level_2_rows < slices:
            raise ReplicaError(
                f"slices: got {slices} of {layout.level_1_per_field} rows of level 1 a field and {layout.level_2_rows} "
                "rows of level 2, expected at least one row of each level for each; give the embedding more bytes"
            )

    def to_json(self) -> dict[str, Any]:
        """The content of a shape record; a single slice is not mentioned, as in records of older versions."""
        content = {"kind": "shape", **asdict(self)}
        return content if self.slices > 1 else {name: one for name, one in content.items() if name != "slices"}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ServedShape:
        """The shape of a record's content.

        Raises:
            ReplicaError: a member is missing or has another type or value than expected.
        """
        try:
            members = {name: content[name] for name in cls.__dataclass_fields__ if name != "slices"}
            slices = int(content.get("slices", 1))
            layout = Layout(**{name: int(number) for name, number in members.pop("layout").items()})
            fields = tuple((str(name), str(kind)) for name, kind in members.pop("fields"))
            published = tuple(int(number) for number in members.pop("published"))
            shape = cls(layout=layout, fields=fields, published=published, slices=slices, **members)
            row_form(shape.row_format, shape.dim), row_form(shape.hot_store, shape.dim)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ReplicaError(f"shape: got {content!r:.200}, expected that of {cls.__name__} ({error})") from error
        return shape

    @property
    def fingerprint(self) -> int:
        """64 bits that differ if any member differs."""
        return xxhash.xxh3_64_intdigest(json.dumps(self.to_json(), sort_keys=True, separators=(",", ":")).encode())

    @property
    def block_rows(self) -> int:
        """Rows of level 2 in a block."""
        return max(1, _BLOCK_BYTES // row_form(self.row_format, self.dim).row_bytes)

    @property
    def level_1_per_block(self) -> int:
        """Rows of level 1 in a block: those of a field, of a slice."""
        return self.layout.level_1_per_field // self.slices

    @property
    def num_gates(self) -> int:
        """Rows of the gates."""
        return self.slices * self.layout.num_fields

    @property
    def _blocks_per_slice(self) -> int:
        """Blocks of level 2 of each slice; the last one also has the rows that fill no block, if there are slices."""
        if self.slices == 1:
            return -(-self.layout.level_2_rows // self.block_rows)
        fewest = self.layout.level_2_rows // self.slices
        return max(1, fewest // self.block_rows) if fewest else 0

    @property
    def num_blocks(self) -> int:
        """Blocks of level 2."""
        return self.slices * self._blocks_per_slice

    def blocks_of(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The block, within its slice, of rows of level 2 (K,), counted from the slice's first."""
        return np.minimum(rows // self.block_rows, self._blocks_per_slice - 1)

    def numbers_of(self, kind: str) -> list[int]:
        """The numbers of the records of a kind that has shared rows or gates, in order; those of published fields."""
        if kind == "1":
            starts = range(0, self.num_gates, self.layout.num_fields)
            return [start + field - 1 for start in starts for field in self.published]
        return list(range(self.num_blocks if kind == "2" else self.slices))

    def slice_of(self, kind: str, number: int) -> int:
        """The slice of a record of a kind that has shared rows or gates."""
        records = {"1": self.layout.num_fields, "2": max(1, self._blocks_per_slice), "g": 1}
        return number // records[kind]

    def block(self, kind: str, number: int) -> slice:
        """The rows of a block of level 1 (`1`: those of a field) or 2, or the rows of the gates of a slice (`g`).

        Raises:
            ReplicaError: there is no such block.
        """
        most = {"1": self.num_gates, "2": self.num_blocks, "g": self.slices}[kind]
        if not 0 <= number < most:
            raise ReplicaError(f"{kind} {number}: expected a number below {most}, as the model's shape has it")
        if kind == "2":
            return self._block_of_level_2(number)
        size = self.level_1_per_block if kind == "1" else self.layout.num_fields
        return slice(number * size, (number + 1) * size)

    def _block_of_level_2(self, number: int) -> slice:
        shard, block = divmod(number, self._blocks_per_slice)
        first, count = rows_of_shard(self.layout.level_2_rows, self.slices, shard)
        start, is_last = first + block * self.block_rows, block == self._blocks_per_slice - 1
        return slice(start, first + count if is_last else start + self.block_rows)

    def partitions_of(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The partition of each unique row (K,): the shard that it belongs to."""
        shards = np.arange(1, self.partitions, dtype=np.int64)
        return np.searchsorted(self.layout.capacity_rows * shards // self.partitions, rows, side="right")

    def partition_of(self, kind: str, number: int) -> int:
        """The partition of a record; all records of a slice are in that of its shard."""
        if kind == "u":
            return int(self.partitions_of(np.array([number]))[0])
        if self.slices > 1 and kind in "12g":
            return self.slice_of(kind, number) % self.partitions
        return number % self.partitions if kind in "12" else 0
