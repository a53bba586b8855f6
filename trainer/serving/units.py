"""`Units`: what a trainer publishes, one number for each record of rows, and how each is read from the embedding.

0 to R - 1       unique rows          then F    rows of level 1 by field
then the blocks of level 2            then 1    the gates
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.stores.rows import RowStore
from trainer.serving.shape import ServedShape, row_form
from trainer.serving.tables import join_rows

__all__ = ["Units"]


class Units:
    """The units of an embedding.

    Args:
        embedding: the trainer's.
        shape: as published.

    Attributes:
        starts: the first unit of each kind.
        count: units in total.
        nbytes: (U,) the bytes of each body.
        partitions: (U,) the partition of each.
    """

    def __init__(self, embedding: AdaptiveEmbedding, shape: ServedShape) -> None:
        layout, form = shape.layout, row_form(shape.row_format, shape.dim)
        self._embedding, self._shape = embedding, shape
        counts = {"u": layout.capacity_rows, "1": layout.num_fields, "2": shape.num_blocks, "g": 1}
        bounds = np.cumsum([0, *counts.values()])
        self.starts = {kind: int(start) for kind, start in zip(counts, bounds, strict=False)}
        self._bounds, self.count = bounds[:-1], int(bounds[-1])
        blocks = [shape.block("2", number) for number in range(shape.num_blocks)]
        sizes = {
            "u": np.full(counts["u"], row_form(shape.hot_store, shape.dim).row_bytes),
            "1": np.full(counts["1"], layout.level_1_per_field * form.row_bytes),
            "2": np.array([(block.stop - block.start) * form.row_bytes for block in blocks], np.int64),
            "g": np.array([12 * layout.num_fields]),
        }
        self.nbytes = np.concatenate([sizes[kind] for kind in counts])
        unique = shape.partitions_of(np.arange(counts["u"]))
        others = [[shape.partition_of(kind, number) for number in range(counts[kind])] for kind in "12g"]
        self.partitions = np.concatenate([unique, *(np.array(one, np.int64) for one in others)])

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

    def read(self, kind: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Copies of the bodies (K, W) of units of one kind and size, by their numbers (K,) in that kind."""
        if kind == "g":
            return np.ascontiguousarray(self._embedding.gate.values.cpu().numpy()).reshape(1, -1).view(np.uint8).copy()
        if kind == "u":
            return _read(self._embedding.unique, numbers)
        first, second = (self._shape.block(kind, number) for number in (0, int(numbers[0])))
        starts, size = numbers * (first.stop - first.start), second.stop - second.start
        rows = (starts[:, None] + np.arange(size)).reshape(-1)
        return _read(self._embedding.shared.levels[f"level_{kind}"], rows).reshape(len(numbers), -1)


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
