"""The scratch hash table of the kernels that number distinct words."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["empty_slots"]


def empty_slots(count: int) -> tuple[npt.NDArray[np.int32], np.uint64]:
    """An empty open-addressed table for `count` entries, at most four fifths full, and the hash shift for its size."""
    bits = max(4, (5 * count // 4).bit_length())
    return np.zeros(1 << bits, np.int32), np.uint64(64 - bits)
