"""`cafe-plus`: CAFE+ (TOIS'25), which is `cafe` with another sketch.

    new feature --> window (a tenth of the buckets, LRU) --evicted with a score of 5--> main buckets --> a unique row
                                                         --over the threshold, at once-->

Kept of the paper: the window; main buckets that replace the smallest slot without a row; a threshold that starts at 1
and, when 1.2 times as many features as rows exceed it, becomes the score of the last feature that has a row, at which
point rows move to the highest scores. The decay is the paper's (added scores grow by a factor each step), but applied:
the published code never multiplies by it. A demotion loses the row, as in CAFE. Not kept: the retrieval models.

One rule is ours: while no row is free, the row of a feature whose score fell below the threshold goes to a feature
that exceeds it and waits for one. Under the published rules that row stays where it is until 1.2 times as many
features as rows exceed the threshold.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from trainer.evaluate.methods.cafe_paper import CafePaper, plan
from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.plus_sketch import PlusSketch

__all__ = ["CafePlus", "build"]

_GROWTH = 1.0000005  # of the scores in one step, as published
_FEWEST_BUCKETS = 2  # one of them the window's


class CafePlus(CafePaper):
    """Knobs: `growth` (of added scores in one step), and `score`, `unique_share`, `slots_per_row`, `split`,
    `row_format` of `CafePaper`.

    Args:
        brief: with the knobs.
        num_hot: unique rows.
        num_buckets: buckets of the sketch, the window's included; 2 or more.
        num_shared: shared rows.
    """  # noqa: D205

    sketch: PlusSketch

    def __init__(self, brief: Brief, num_hot: int, num_buckets: int, num_shared: int) -> None:
        super().__init__(brief, num_hot, num_buckets, num_shared)
        self.sketch = PlusSketch(num_buckets, num_hot, growth=brief.number("growth", _GROWTH), seed=brief.seed)

    @torch.no_grad()
    def learn(self) -> None:
        """As `Method.learn`."""
        gradients = self.rows.learn()
        promoted, rows = self.sketch.insert(self._ids, self._scores(gradients[-1]))
        moved, moved_rows = self.sketch.adjust()
        ids = np.concatenate([self._ids[promoted], moved])
        if len(ids):  # a row that changed its owner twice belongs to the last one
            rows, last = np.unique(np.concatenate([rows, moved_rows])[::-1], return_index=True)
            ids = ids[::-1][last]
            fields = np.searchsorted(self._level_1.first_ids, ids, side="right") - 1
            self.rows.copy_from(rows, self.rows.gather(self._level_1.of_fields(ids, fields)))

    def describe(self) -> dict[str, float]:
        """As `Method.describe`, with the threshold."""
        return {**super().describe(), "threshold": self.sketch.threshold}


def build(brief: Brief) -> CafePlus | Infeasible:
    """Spends the bytes as `cafe` does; the window's buckets are part of the sketch's, which has two at least."""
    planned = plan(brief, fewest_hot=math.ceil(_FEWEST_BUCKETS * 4 / brief.number("slots_per_row", 4)))
    return planned if isinstance(planned, Infeasible) else CafePlus(brief, *planned)
