"""What one forward pass looked up: what it read from each store, kept until its gradients come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.embedding import kernels
from trainer.embedding.gate import Gated
from trainer.embedding.slots import empty_slots
from trainer.embedding.stores.store import Reads
from trainer.errors import KeyTypeError

__all__ = ["Importance", "Lookup", "as_words", "distinct", "reads_of_rows"]


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """N lookups of U distinct keys (on CUDA, where finding the distinct ones would wait for the device, U is N).

    Attributes:
        keys: (U,) int64, the words of the keys.
        reads: what is read from each store, by its name; none that no key of the batch reads.
        num_lookups: N.
        batch_rows: B, over which the loss is a mean.
        version: of the router that was asked.
        gated: the gates of the keys, where there are gates.
    """

    keys: Tensor
    reads: Mapping[str, Reads]
    num_lookups: int
    batch_rows: int
    version: int = 0
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


def reads_of_rows(rows: npt.NDArray[np.uint64]) -> Reads:
    """What (N,) lookups read of one store, row numbers given: each distinct row once. For the numba body."""
    unique, inverse = distinct(rows)
    return Reads(
        addresses=unique.astype(np.int32)[:, None],
        inverse=inverse,
        gates=np.empty(0, np.float32),
        is_distinct=True,
    )
