"""The torch bodies of `trainer.embedding.kernels`: sorts, gathers and segment sums, for CUDA, on any device.

Nothing here has a shape that depends on the data, so on CUDA nothing waits for the device. Keys are `uint64` words
in `int64` clothes: products wrap as they should, and a logical shift to the right is an arithmetic one, masked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sketch.keymap import ABSENT

__all__ = ["find_values", "level_rows", "merge_by_id", "mix64_tensor", "part_rows"]

_LOW = 0xFFFFFFFF
_MULTIPLIER_1 = 0xFF51AFD7ED558CCD - (1 << 64)  # `sketch.hashing` has them unsigned; the golden vectors bind the two
_MULTIPLIER_2 = 0xC4CEB9FE1A85EC53 - (1 << 64)


def _signed(word: int) -> int:
    """The int64 with the bits of a uint64."""
    return word - (1 << 64) if word >> 63 else word


def mix64_tensor(words: Tensor) -> Tensor:
    """`sketch.hashing.mix64` of every int64 word."""
    mask = (1 << 31) - 1  # a shift by 33 leaves 31 bits
    words = words ^ (words >> 33 & mask)
    words = words * _MULTIPLIER_1
    words = words ^ (words >> 33 & mask)
    words = words * _MULTIPLIER_2
    return words ^ (words >> 33 & mask)


def find_values(slots: Tensor, values: Tensor, keys: Tensor) -> Tensor:
    """`KeyMap.get` over copies of its arrays.

    Args:
        slots: (W, 4) int64, the map's keys.
        values: (W, 4) int32.
        keys: (N,) int64.

    Returns:
        (N,) int32, `ABSENT` where there is none.
    """
    num_buckets = slots.shape[0]
    words = mix64_tensor(keys)
    buckets = torch.stack([(words & _LOW) * num_buckets >> 32, (words >> 32 & _LOW) * num_buckets >> 32])  # (2, N)
    hits = slots[buckets] == keys[None, :, None]  # (2, N, 4)
    found = torch.where(hits, values[buckets], ABSENT).amax(dim=(0, 2))  # (N,)
    return torch.where(keys == 0, ABSENT, found)


def level_rows(keys: Tensor, seed: int, rows_per_field: int, num_fields: int) -> Tensor:
    """The row of each key within one level, counted from the level's start: (N,) int64."""
    field = ((keys >> 56 & 0xFF) - 1).clamp(0, num_fields - 1)
    place = (mix64_tensor(keys ^ _signed(seed)) >> 32 & _LOW) * rows_per_field >> 32
    return field * rows_per_field + place


def part_rows(keys: Tensor, seed: int, num_rows: int) -> Tensor:
    """The two rows of each key, (N, 2) int64."""
    word = mix64_tensor(keys ^ _signed(seed))
    return torch.stack([half * num_rows >> 32 for half in (word >> 32 & _LOW, word & _LOW)], dim=1)


def merge_by_id(ids: Tensor, numbers: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    """Sums of the numbers of equal ids.

    Args:
        ids: (N,) int64.
        numbers: (N, ...) float32.
        padding: what fills the places after the last distinct id, where the sums are 0.

    Returns:
        (N,) distinct ids in ascending order, then padding; (N, ...) their sums.
    """
    ordered, order = ids.sort(stable=True)
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    segment = is_new.cumsum(0) - 1  # (N,)
    sums = torch.zeros_like(numbers).index_add_(0, segment, numbers[order])
    return torch.full_like(ids, padding).scatter_(0, segment, ordered), sums
