"""`cprec`: rows of D, D / 2 and D / 4 values by popularity within a field (CpRec, SIGIR'20; MDE, 2019), nested.

    the most popular of the field's tracked features   D values
    the next ones, twice as many                       D / 2 values, zero above
    the next ones, four times as many                  D / 4 values, zero above
    all other features                                 a hashed row of the field, D / 4 values

Kept of the papers: the blocks by popularity within a field, each with half the values of the one before. Not kept: the
projection of a block to D values, and blocks that are counted once, in advance. Here the widths are nested, so a
promotion adds zeros and changes no vector, and a demotion cuts the vector; and the blocks follow the stream.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.tiered import Tier, TieredRows, TierPlan, plan_tiers

__all__ = ["CpRec", "build"]

_HALVINGS = 3


class CpRec(TieredRows):
    """Nested widths. Knobs: `unique_share` (of the bytes, for tracked features) and `row_format`."""

    def __init__(self, brief: Brief, plan: TierPlan) -> None:
        self._first_ids = np.concatenate([[0], np.cumsum(brief.field_sizes)[:-1]])
        super().__init__(brief, plan, self._popularity)

    def _popularity(self, ids: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The share of the field's tracked features that score at most as much (K,)."""
        fields = np.searchsorted(self._first_ids, ids, side="right") - 1
        order = np.lexsort((scores, fields))
        starts = np.searchsorted(fields[order], fields[order])
        share = np.empty(len(ids))
        share[order] = (np.arange(len(ids)) - starts + 1) / np.bincount(fields)[fields[order]]
        return share

    def expand(self, tier: int, rows: Tensor) -> Tensor:  # noqa: ARG002
        """As `TieredRows.expand`: zeros above."""
        return torch.nn.functional.pad(rows, (0, self.dim - rows.shape[1]))

    def shrink(self, tier: int, vectors: Tensor) -> Tensor:
        """The leading columns (K, d) of the vectors, as `TieredRows.shrink`: a promotion pads them with zeros."""
        return vectors[:, : self._rows[tier].store.dim].contiguous()


def build(brief: Brief) -> CpRec | Infeasible:
    """Three widths of tracked features, and shared rows of the smallest one."""
    widths = [max(1, brief.dim >> step) for step in range(_HALVINGS)]
    tiers = [Tier(row_format=brief.row_format, dim=dim, part=2.0**step) for step, dim in enumerate(widths)]
    planned = plan_tiers(brief, tiers, Tier(row_format=brief.row_format, dim=widths[-1]))
    return planned if isinstance(planned, Infeasible) else CpRec(brief, planned)
