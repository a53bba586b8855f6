"""The dense columns: integer counts whose logarithms have fitted quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from streams.generator.profile import DenseProfile

__all__ = ["DenseRecord", "dense_records", "draw_log"]

DenseRecord = Any  # one element of `dense_records`, as numba sees it


def dense_records(columns: Sequence[DenseProfile], effects: npt.NDArray[np.float64]) -> npt.NDArray[np.void]:
    """The dense columns of a profile as (D,) records for the kernels.

    Args:
        columns: the D columns.
        effects: (D,) float64, the change of the logit per standard deviation of a column's logarithm.
    """
    quantiles = np.array([column.log_quantiles for column in columns])  # (D, Q)
    low, high = quantiles[:, :-1], quantiles[:, 1:]
    mean = ((low + high) / 2).mean(axis=1)
    square = ((low * low + low * high + high * high) / 3).mean(axis=1)
    layout = [
        ("log_quantiles", np.float64, quantiles.shape[1]),
        ("num_cells", np.int64),
        ("offset", np.float64),
        ("log_mean", np.float64),
        ("slope", np.float64),
        ("missing", np.float64),
        ("missing_group", np.int64),
    ]
    records = np.zeros(len(columns), np.dtype(layout, align=True))
    records["log_quantiles"], records["num_cells"] = quantiles, quantiles.shape[1] - 1
    records["offset"] = [column.offset for column in columns]
    records["log_mean"], records["slope"] = mean, effects / np.sqrt(square - mean * mean)
    records["missing"] = [column.missing for column in columns]
    records["missing_group"] = [column.missing_group for column in columns]
    return records


@njit(nogil=True, cache=True)
def draw_log(column: DenseRecord, share: float) -> float:
    """The quantile of log(count + offset) at `share` in [0, 1), by linear interpolation."""
    position = share * column.num_cells
    cell = np.int64(position)
    low = column.log_quantiles[cell]
    return low + (position - cell) * (column.log_quantiles[cell + 1] - low)
