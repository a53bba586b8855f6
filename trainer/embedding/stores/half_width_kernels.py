"""The numba loop of `HalfWidthRows`; without torch, so that a replica can read such rows, too."""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types.

from __future__ import annotations

import numpy as np
from numba import njit

from trainer.embedding.stores.kernels import entry_of

__all__ = ["gather"]


@njit(nogil=True, cache=True)
def gather(values, scales, addresses, fields, gates, inverse, out):  # noqa: ARG001
    """`gather` of `stores.kernels.row_kernels` for rows (R, D / 2) and vectors (N, D)."""
    for i in range(out.shape[0]):
        key = entry_of(inverse, i)
        gate = gates[fields[key], 0] if gates.shape[0] > 0 else np.float32(1)
        out[i, values.shape[1] :] = 0
        for column in range(values.shape[1]):
            out[i, column] = values[addresses[key, 0], column] * gate
