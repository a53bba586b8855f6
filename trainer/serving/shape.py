"""`ServedShape`: the sizes and formats of a published embedding, and where each of its records is; without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

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

    def to_json(self) -> dict[str, Any]:
        """The content of a shape record."""
        return {"kind": "shape", **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ServedShape:
        """The shape of a record's content.

        Raises:
            ReplicaError: a member is missing or has another type or value than expected.
        """
        try:
            members = {name: content[name] for name in cls.__dataclass_fields__}
            layout = Layout(**{name: int(number) for name, number in members.pop("layout").items()})
            fields = tuple((str(name), str(kind)) for name, kind in members.pop("fields"))
            published = tuple(int(number) for number in members.pop("published"))
            shape = cls(layout=layout, fields=fields, published=published, **members)
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
    def num_blocks(self) -> int:
        """Blocks of level 2."""
        return -(-self.layout.level_2_rows // self.block_rows)

    def block(self, kind: str, number: int) -> slice:
        """The rows of a block of level 1 (`1`: those of a field) or 2.

        Raises:
            ReplicaError: there is no such block.
        """
        rows = self.layout.level_1_per_field if kind == "1" else self.block_rows
        most = self.layout.level_1_rows if kind == "1" else self.layout.level_2_rows
        if not 0 <= number * rows < most:
            raise ReplicaError(f"block {number} of level {kind}: expected one of {most} rows, {rows} a block")
        return slice(number * rows, min(most, (number + 1) * rows))

    def partitions_of(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The partition of each unique row (K,): the shard that it belongs to."""
        shards = np.arange(1, self.partitions, dtype=np.int64)
        return np.searchsorted(self.layout.capacity_rows * shards // self.partitions, rows, side="right")

    def partition_of(self, kind: str, number: int) -> int:
        """The partition of a record."""
        if kind == "u":
            return int(self.partitions_of(np.array([number]))[0])
        return number % self.partitions if kind in "12" else 0
