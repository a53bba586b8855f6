"""What one forward pass looked up: the routes of its keys, kept until its gradients come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.embedding import kernels
from trainer.embedding.gate import Gated
from trainer.errors import KeyTypeError

__all__ = ["Importance", "Lookup", "Numbering", "Routes", "as_words", "distinct", "empty_slots"]


class Routes(NamedTuple):
    """The rows of U keys (`trainer.embedding.layout`), (U,) each.

    Attributes:
        row: a unique row, or one of level 1.
        left: of level 2, whose left half is added; the padding row for a hot key. (0,) where there is no level 2.
        right: likewise the right half.
    """

    row: Tensor
    left: Tensor
    right: Tensor

    @classmethod
    def of_rows(cls, rows: Tensor) -> Routes:
        """One row a key, and nothing of level 2."""
        return cls(rows, rows[:0], rows[:0])


@dataclass(frozen=True)
class Numbering:
    """The P distinct physical rows of a lookup, numbered.

    Attributes:
        rows: (P,) int32.
        numbers: (U, 3) int32, the numbers of each key's rows, in the order of `Routes`; -1 where there is none.
    """

    rows: npt.NDArray[np.int32]
    numbers: npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """N lookups of U distinct keys (on CUDA, where finding the distinct ones would wait for the device, U is N).

    Attributes:
        keys: (U,) int64, the words of the keys.
        inverse: (N,) int32, the place in `keys` of each lookup; None if U is N.
        routes: of the keys.
        batch_rows: B, over which the loss is a mean.
        version: of the router that made the routes.
        numbering: of the rows, where the lookup is to learn and the backend is numba.
        gated: the gates of the keys, where there are gates.
    """

    keys: Tensor
    inverse: Tensor | None
    routes: Routes
    batch_rows: int
    version: int
    numbering: Numbering | None = None
    gated: Gated | None = None


@dataclass(frozen=True)
class Importance:
    """How much each key mattered in one step.

    Attributes:
        keys: (K,) uint64, distinct.
        scores: (K,) float32: over the key's occurrences, the sum of the norms of the gradient of the *sum* of the
            losses at the looked-up vector (raw: a prototype found every normalisation worse).
    """

    keys: npt.NDArray[np.uint64]
    scores: npt.NDArray[np.float32]


def empty_slots(count: int) -> tuple[npt.NDArray[np.int32], np.uint64]:
    """An open-addressed table for `count` entries, at most four fifths full, and the shift that addresses it."""
    bits = max(4, (5 * count // 4).bit_length())
    return np.zeros(1 << bits, np.int32), np.uint64(64 - bits)


def distinct(keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
    """The distinct keys in order of first occurrence, and the place of each of the (N,) keys among them. O(N)."""
    slots, shift = empty_slots(len(keys))
    unique = np.empty(len(keys), np.uint64)
    inverse = np.empty(len(keys), np.int32)
    count = kernels.deduplicate(keys, slots, shift, unique, inverse)
    return unique[:count], inverse


def as_words(keys: Tensor | npt.NDArray[np.uint64], device: torch.device) -> Tensor:
    """Keys of any shape as int64 words on the device, without a copy where none is needed.

    Raises:
        KeyTypeError: they are neither int64 nor uint64.
    """
    dtype = getattr(keys, "dtype", None)
    if dtype not in (torch.int64, torch.uint64, np.int64, np.uint64):
        raise KeyTypeError(
            f"keys: got {dtype or type(keys)}, expected the 64 bits of each key as int64 or uint64; "
            "a key in another dtype has lost its field number"
        )
    if isinstance(keys, np.ndarray):
        keys = torch.from_numpy(np.array(keys, order="C", copy=not keys.flags.writeable or None))
    return keys.view(torch.int64).to(device, non_blocking=True).contiguous()
