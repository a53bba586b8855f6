"""`Units`: what a trainer publishes, one number for each record of rows, and how each is read from the embedding.

0 to R - 1       unique rows          then F    rows of level 1 by field
then the blocks of level 2            then 1    the gates

If each shard has rows of its own, these are the units of one shard, R its unique rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from streams.assignments.row_ranges import rows_of_shard
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.stores.rows import RowStore
from trainer.serving.shape import ServedShape, row_form
from trainer.serving.tables import join_rows

__all__ = ["Units"]

_GATE_ROW_BYTES = 12  # three float32


class Units:
    """The units of an embedding.

    Args:
        embedding: the trainer's; of several slices, that of a shard.
        shape: as published.
        shard: the slice; 0 if there is one.

    Attributes:
        starts: the first unit of each kind.
        count: units in total.
        numbers: (U,) the number of each in its record.
        nbytes: (U,) the bytes of each body.
        partitions: (U,) the partition of each.
        own_partitions: those to which no other slice sends anything.
    """

    def __init__(self, embedding: AdaptiveEmbedding, shape: ServedShape, shard: int = 0) -> None:
        self._embedding, self._shape = embedding, shape
        first_row, num_rows = rows_of_shard(shape.layout.capacity_rows, shape.slices, shard)
        per_slice = {"1": shape.layout.num_fields, "2": shape.num_blocks // shape.slices, "g": 1}
        numbers = {"u": np.arange(first_row, first_row + num_rows)}
        numbers |= {kind: np.arange(shard * count, (shard + 1) * count) for kind, count in per_slice.items()}
        self._blocks = {kind: [shape.block(kind, number) for number in numbers[kind].tolist()] for kind in per_slice}
        bounds = np.cumsum([0, *map(len, numbers.values())])
        self.starts = {kind: int(start) for kind, start in zip(numbers, bounds, strict=False)}
        self._bounds, self.count = bounds[:-1], int(bounds[-1])
        self.numbers = np.concatenate(list(numbers.values()))
        form = row_form(shape.row_format, shape.dim)
        sizes = {"1": form.row_bytes, "2": form.row_bytes, "g": _GATE_ROW_BYTES}
        unique_bytes = np.full(num_rows, row_form(shape.hot_store, shape.dim).row_bytes)
        others = [size * (block.stop - block.start) for kind, size in sizes.items() for block in self._blocks[kind]]
        self.nbytes = np.append(unique_bytes, others)
        named = [shape.partition_of(kind, number) for kind in per_slice for number in numbers[kind].tolist()]
        self.partitions = np.append(shape.partitions_of(numbers["u"]), named)
        self.own_partitions = range(shape.partitions) if shape.slices == 1 else range(shard, shard + 1)

    @property
    def num_unique(self) -> int:
        """Unique rows."""
        return self.starts["1"]

    def groups(self, units: npt.NDArray[np.int64]) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
        """The kind, and the units (K,) in their order, of each group of one kind and size; unique rows first."""
        kinds, sizes = np.searchsorted(self._bounds, units, side="right") - 1, self.nbytes[units]
        for index, kind in enumerate(self.starts):
            of_kind = kinds == index
            for size in np.unique(sizes[of_kind]):
                yield kind, units[of_kind & (sizes == size)]

    def read(self, kind: str, units: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Copies of the bodies (K, W) of units (K,) of one kind and size."""
        if kind == "u":
            return _read(self._embedding.unique, units)
        if kind == "g":
            return np.ascontiguousarray(self._embedding.gate.values.cpu().numpy()).reshape(1, -1).view(np.uint8).copy()
        blocks = self._blocks[kind]
        first, chosen = blocks[0].start, [blocks[unit] for unit in (units - self.starts[kind]).tolist()]
        starts = np.array([block.start - first for block in chosen])
        rows = (starts[:, None] + np.arange(chosen[0].stop - chosen[0].start)).reshape(-1)
        return _read(self._embedding.shared.levels[f"level_{kind}"], rows).reshape(len(units), -1)


def _read(store: RowStore, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Copies of rows (K,) as bodies (K, bytes a row)."""
    values, scales = _take(store.values, rows), store.row_scales
    return join_rows(values, _take(scales, rows) if len(scales) else np.empty(0, np.uint16))


def _take(tensor: torch.Tensor, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Rows of a tensor; on a CPU by numpy, as torch would wake its threads for a few kilobytes."""
    words = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    if words.is_cpu:
        return words.detach().numpy()[rows]
    return words[torch.from_numpy(rows).to(words.device)].cpu().numpy()
