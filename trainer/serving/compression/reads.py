"""`Reads`: how often the rows of an exported embedding are read by the rows of a log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.serving.addresses import shared_addresses
from trainer.serving.exported import Exported

__all__ = ["Reads", "count_reads", "owned_once"]

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The weights of the rows.

    Attributes:
        unique: (R,).
        level_1: (R,).
        level_2: (R,), where a key reads each of four rows in part, a quarter.
    """

    unique: Counts
    level_1: Counts
    level_2: Counts

    @property
    def tables(self) -> tuple[Counts, Counts, Counts]:
        """In the order of `trainer.serving.compression.formats.TABLES`."""
        return self.unique, self.level_1, self.level_2


def owned_once(exported: Exported) -> Reads:
    """Every row that has an owner, and every shared one, once: for want of a log."""
    layout, unique = exported.shape.layout, np.zeros(exported.shape.layout.capacity_rows)
    unique[exported.router["values"]] = 1.0
    return Reads(unique=unique, level_1=np.ones(layout.level_1_rows), level_2=np.ones(layout.level_2_rows))


def count_reads(exported: Exported, keys: npt.NDArray[np.uint64]) -> Reads:
    """The reads of rows by feature keys (N,)."""
    layout, distinct, counts = exported.shape.layout, *np.unique(keys, return_counts=True)
    owners, rows = exported.router["keys"].view(np.uint64), exported.router["values"]
    order = np.argsort(owners)
    at = np.searchsorted(owners, distinct, sorter=order)
    at = order[np.minimum(at, max(0, len(owners) - 1))] if len(owners) else at
    is_hot = owners[at] == distinct if len(owners) else np.zeros(len(distinct), np.bool_)
    cold, weights = distinct[~is_hot], counts[~is_hot].astype(np.float64)
    addresses = shared_addresses(exported.shape, cold)
    parts = addresses.shape[1] - 1
    level_2 = np.zeros(layout.level_2_rows)
    for part in range(parts):
        level_2 += _sum(addresses[:, 1 + part], weights / parts, layout.level_2_rows)
    return Reads(
        unique=_sum(rows[at[is_hot]] if len(owners) else rows, counts[is_hot].astype(np.float64), layout.capacity_rows),
        level_1=_sum(addresses[:, 0], weights, layout.level_1_rows),
        level_2=level_2,
    )


def _sum(rows: npt.NDArray[Any], weights: Counts, size: int) -> Counts:
    return np.bincount(rows, weights, size).astype(np.float64)
