"""`cafe`: CAFE as published (SIGMOD'24), with one or two levels; `cafe-bytes`: its rules with our row format.

    hot      score > threshold, and a row was free      a unique row
    medium   score > threshold / 5 (two levels)         H1 row + H2 row
    cold     the rest                                   H1 row

A new feature replaces the minimum of its bucket. A promotion happens at the threshold and copies the vector; a demotion
drops the row. Two bugs of the published code are fixed: it copies the wrong shared row for every field but the first,
and it replaces the last slot of a bucket, where the paper requires the smallest.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.evaluate.methods.cafe_sketch import SLOT_BYTES, CafeSketch, Ids, Scorer
from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.row_hash import RowHash, fields_of, split_rows
from trainer.evaluate.methods.row_tables import Rows, RowTables

__all__ = ["CafePaper", "build", "plan"]

_FREE_BYTES = 4
_MEDIUM = 0.2  # fraction of the threshold
_LEVEL_1 = 0.7  # fraction of the shared rows, if there are two levels


class CafePaper(RowTables):
    """Knobs: `threshold` (mean lookups), `score` (`field` or `raw`), `levels`, `unique_share` (of the bytes),
    `slots_per_row`, `split`, `decay`, `row_format`.

    Args:
        brief: with the knobs.
        num_hot: unique rows.
        num_buckets: buckets of the sketch.
        num_shared: shared rows.
    """  # noqa: D205

    capabilities: ClassVar[frozenset[str]] = frozenset({"adaptive", "needs_vocabulary"})
    reads_lists: ClassVar[bool] = True

    def __init__(self, brief: Brief, num_hot: int, num_buckets: int, num_shared: int) -> None:
        sizes, how = brief.field_sizes, brief.word("split", "proportional")
        is_two_level, num_level_1 = brief.number("levels", 1) == 2, num_shared
        if is_two_level:
            num_level_1 = min(max(len(sizes), int(num_shared * _LEVEL_1)), num_shared - len(sizes))
        level_1 = RowHash(sizes, split_rows(num_level_1, sizes, how), 2 * brief.seed, first_row=num_hot)
        start, level_2 = num_hot + level_1.num_rows, level_1
        if is_two_level:
            split = split_rows(num_shared - num_level_1, sizes, how)
            level_2 = RowHash(sizes, split, 2 * brief.seed + 1, first_row=start)
            start += level_2.num_rows
        super().__init__(Rows(start, brief, row_format=brief.row_format))
        self._num_fields, self._is_two_level = len(sizes), is_two_level
        self._level_1, self._level_2 = level_1, level_2
        threshold = brief.number("threshold", 20.0)
        self.sketch = CafeSketch(
            num_buckets, num_hot, threshold=threshold, factor=brief.number("decay", 0.98), seed=brief.seed
        )
        self._medium = _MEDIUM * threshold
        self._score = Scorer(brief.word("score", "field"), self._num_fields)
        self._ids: Ids = np.empty(0, np.int64)
        self._fields: Ids | None = None  # of the ids, if they are those of lists
        self._batch_rows = 0

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        ids = words.numpy()  # (B, F)
        hot, scores = (found.reshape(ids.shape) for found in self.sketch.find(ids.reshape(-1)))
        vectors: Tensor = self.rows(np.where(hot >= 0, hot, self._level_1(ids)))
        if self._is_two_level:
            is_medium = (hot < 0) & (scores > self._medium)
            vectors = vectors + self.rows(np.where(is_medium, self._level_2(ids), self.rows.padding))
        if torch.is_grad_enabled():
            self._ids, self._batch_rows = ids.reshape(-1), len(ids)
            self._fields = fields_of(ids, self._level_1.first_ids) if ids.ndim == 1 else None
        return vectors

    def forward_values(self, words: Tensor, batch_rows: int) -> Tensor:
        """As `Method.forward_values`."""
        vectors = super().forward_values(words, batch_rows)
        self._batch_rows = batch_rows
        return vectors

    def _scores(self, gradient: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The scores (N,) of the last ids."""
        return self._score(gradient, self._fields, self._batch_rows)

    @torch.no_grad()
    def learn(self) -> None:
        """As `Method.learn`."""
        gradients = self.rows.learn()
        before = self.sketch.find(self._ids)[1] if self._is_two_level else None
        promoted, rows = self.sketch.insert(self._ids, self._scores(gradients[-1]))
        if not len(promoted):
            return
        fields = promoted % self._num_fields if self._fields is None else self._fields[promoted]
        ids = self._ids[promoted]
        vectors = self.rows.gather(self._level_1.of_fields(ids, fields))
        if before is not None:
            second = np.where(before[promoted] > self._medium, self._level_2.of_fields(ids, fields), self.rows.padding)
            vectors = vectors + self.rows.gather(second)
        self.rows.copy_from(rows, vectors)

    @property
    def extra_bytes(self) -> int:
        """As `RowTables.extra_bytes`: the sketch."""
        return sum(self.sketch.nbytes.values())

    @property
    def extra_paper_bytes(self) -> int:
        """As `RowTables.extra_paper_bytes`."""
        return self.sketch.nbytes["slots"]

    def describe(self) -> dict[str, float]:
        """As `Method.describe`."""
        sketch = self.sketch
        return {"hot": sketch.num_hot, "promotions": sketch.num_promoted, "demotions": sketch.num_demoted}


def plan(brief: Brief, fewest_hot: int = 1) -> tuple[int, int, int] | Infeasible:
    """Unique rows, buckets and shared rows: `unique_share` of the bytes for the first two, the rest for the last."""
    row_bytes, share = brief.row_bytes(brief.row_format), brief.number("unique_share", 0.7)
    per_hot = row_bytes + brief.number("slots_per_row", 4) * SLOT_BYTES + _FREE_BYTES
    fewest = len(brief.field_sizes) * int(brief.number("levels", 1))
    fixed, shared_bytes = row_bytes + 4 * SLOT_BYTES, (fewest + 1) * row_bytes
    room = brief.budget_bytes - fixed
    num_hot = min(int(room * share / per_hot), int((room - shared_bytes) / per_hot))
    if num_hot < fewest_hot:
        least = fixed + math.ceil(fewest_hot * per_hot + max(shared_bytes, fewest_hot * per_hot * (1 / share - 1)))
        return Infeasible(
            f"unique rows: {fewest_hot}, and shared ones: {fewest} need {least} bytes, got {brief.budget_bytes}"
        )
    num_buckets = max(1, int(num_hot * brief.number("slots_per_row", 4) / 4))
    rest = brief.budget_bytes - num_hot * (row_bytes + _FREE_BYTES) - num_buckets * 4 * SLOT_BYTES
    return num_hot, num_buckets, rest // row_bytes - 1


def build(brief: Brief) -> CafePaper | Infeasible:
    """Builds the method by the plan of its bytes."""
    planned = plan(brief)
    return planned if isinstance(planned, Infeasible) else CafePaper(brief, *planned)
