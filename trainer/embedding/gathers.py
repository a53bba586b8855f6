"""The torch bodies of `trainer.embedding.kernels`: sorts, gathers and segment sums, for CUDA or any other device.

No shape depends on the data, so nothing here synchronises with the device. Keys are `uint64` words stored as `int64`:
products wrap as in uint64, and a logical right shift is an arithmetic one with a mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sketch.hashing import SHARD_SEED
from sketch.keymap import ABSENT
from streams.keys import MAX_FIELDS, PAYLOAD_BITS

__all__ = ["field_indices", "find_values", "level_rows", "merge_by_id", "mix64_tensor", "part_rows", "shards_of"]

_LOW = 0xFFFFFFFF
_SHARD_SEED = int(SHARD_SEED)  # below 2^63
_MULTIPLIER_1 = 0xFF51AFD7ED558CCD - (1 << 64)  # `sketch.hashing` has them unsigned; golden vectors test both
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
        (N,) int32, `ABSENT` for a key that the map does not hold.
    """
    num_buckets = slots.shape[0]
    words = mix64_tensor(keys)
    buckets = torch.stack([(words & _LOW) * num_buckets >> 32, (words >> 32 & _LOW) * num_buckets >> 32])  # (2, N)
    hits = slots[buckets] == keys[None, :, None]  # (2, N, 4)
    found = torch.where(hits, values[buckets], ABSENT).amax(dim=(0, 2))  # (N,)
    return torch.where(keys == 0, ABSENT, found)


def shards_of(keys: Tensor, num_shards: int) -> Tensor:
    """`sketch.hashing.shard_of` of every key: (N,) int64."""
    return (mix64_tensor(keys ^ _SHARD_SEED) >> 32 & _LOW) * num_shards >> 32


def field_indices(keys: Tensor, num_fields: int) -> Tensor:
    """The field of each key, counted from 0 and clamped to F - 1: (N,) int64."""
    return ((keys >> PAYLOAD_BITS & MAX_FIELDS) - 1).clamp(0, num_fields - 1)


def level_rows(keys: Tensor, seed: int, rows_per_field: int, num_fields: int) -> Tensor:
    """The row of each key in the range that its field owns: (N,) int64."""
    row = (mix64_tensor(keys ^ _signed(seed)) >> 32 & _LOW) * rows_per_field >> 32
    return field_indices(keys, num_fields) * rows_per_field + row


def part_rows(keys: Tensor, seeds: Sequence[int], num_rows: int) -> Tensor:
    """Two rows of each key for each seed: (N, 2 len(seeds)) int64."""
    words = [mix64_tensor(keys ^ _signed(seed)) for seed in seeds]
    halves = [half for word in words for half in (word >> 32 & _LOW, word & _LOW)]
    return torch.stack([half * num_rows >> 32 for half in halves], dim=1)


def merge_by_id(ids: Tensor, values: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    """Sums the values of equal ids.

    Args:
        ids: (N,) int64.
        values: (N, ...) float32.
        padding: the id that fills the end of the result, where the sums are 0.

    Returns:
        The distinct ids in ascending order, followed by padding (N,), and their sums (N, ...).
    """
    ordered, order = ids.sort(stable=True)
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    segment = is_new.cumsum(0) - 1  # (N,)
    sums = torch.zeros_like(values).index_add_(0, segment, values[order])
    return torch.full_like(ids, padding).scatter_(0, segment, ordered), sums
