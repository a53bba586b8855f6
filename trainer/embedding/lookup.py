"""`Lookup`: what one forward pass read from each store, kept until its gradients arrive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.embedding import kernels
from trainer.embedding.slots import empty_slots
from trainer.embedding.stores.store import Reads
from trainer.errors import KeyTypeError

__all__ = ["Importance", "Lookup", "Scores", "as_words", "distinct", "reads_of_rows", "split_scores"]


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """N lookups of U distinct keys (on CUDA U is N, because deduplication would synchronise with the device).

    Attributes:
        keys: (U,) int64, the words of the keys; in the numba body the hot ones come first.
        reads: what is read from each store, by name.
        num_lookups: N.
        num_hot: the number of hot keys; 0 in the torch body.
        routed: the rows of the lookups in the triton body, where `reads` is empty.
        inverse: (N,) int32, the key of each lookup; None in the torch body.
        vectors: (U, D) float32, the vectors of the keys, which `gather` fills; None in the torch body.
        batch_rows: B, the rows over which the loss is a mean.
        version: the version of the router at the lookup.
        record_lookups: the lookups of each click record in the batch, which follow each other, if there are several.
    """

    keys: Tensor
    reads: Mapping[str, Reads]
    num_lookups: int
    batch_rows: int
    num_hot: int = 0
    inverse: Any = None
    vectors: Tensor | None = None
    routed: Any = None
    version: int = 0
    record_lookups: tuple[int, ...] = ()

    def by_store(self, of_keys: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of a tensor (U, ...) that belong to hot keys and to the others."""
        return of_keys[: self.num_hot], of_keys[self.num_hot :]


@dataclass(frozen=True)
class Importance:
    """The importance of each key in one step.

    Attributes:
        keys: (K,) uint64, distinct.
        scores: (K,) float32: the norm of the gradient at the looked-up vector of the *sum* of the losses, summed over
            the key's occurrences. It is not normalised: in a prototype every normalisation was worse.
    """

    keys: npt.NDArray[np.uint64]
    scores: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The importance of the keys of each click record of a step, on the device that measured it.

    Attributes:
        keys: (P,) int64, distinct within a record; 0 is padding, which follows the keys of several records, and may
            stand anywhere in those of one.
        scores: (P,) float32, as in `Importance`.
        counts: (R,) int64, the number of keys of each of the R records, which follow each other; None for one record.
    """

    keys: Tensor
    scores: Tensor
    counts: Tensor | None = None

    @property
    def columns(self) -> dict[str, Tensor]:
        """The tensors by name."""
        columns = {"keys": self.keys, "scores": self.scores}
        return columns if self.counts is None else {**columns, "counts": self.counts}

    def to_importance(self) -> Importance:
        """The importance of a step's only record; synchronises with the device."""
        (importance,) = split_scores(self.keys.cpu().numpy(), self.scores.cpu().numpy(), None)
        return importance


def split_scores(
    keys: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], counts: npt.NDArray[np.int64] | None
) -> tuple[Importance, ...]:
    """The importance of each record, from the columns of `Scores`; views of them if there is no padding to drop."""
    if counts is None:
        is_key = keys != 0
        if not is_key.all():
            keys, scores = keys[is_key], scores[is_key]
        return (Importance(keys.view(np.uint64), scores),)
    ends = np.cumsum(counts).tolist()
    starts = [0, *ends[:-1]]
    words = keys.view(np.uint64)
    return tuple(Importance(words[start:end], scores[start:end]) for start, end in zip(starts, ends, strict=True))


def distinct(keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
    """The distinct keys in order of first occurrence, and the index of each of the (N,) keys among them. O(N)."""
    slots, shift = empty_slots(len(keys))
    unique = np.empty(len(keys), np.uint64)
    inverse = np.empty(len(keys), np.int32)
    count = kernels.deduplicate(keys, slots, shift, unique, inverse)
    return unique[:count], inverse


def as_words(keys: Tensor | npt.NDArray[np.uint64], device: torch.device) -> Tensor:
    """Converts keys of any shape to int64 words on the device, without a copy if possible.

    Raises:
        KeyTypeError: the keys are neither int64 nor uint64.
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
    """The reads of one store for lookups of row numbers (N,), each distinct row once; for the numba body."""
    unique, inverse = distinct(rows)
    return Reads(addresses=unique.astype(np.int32)[:, None], inverse=inverse)
