"""Where the tables of a served embedding have what a key reads, also if each shard has a slice of its own.

    level 1     slice 0: field 0, field 1, ...   slice 1: field 0, ...      equally many rows a field
    level 2     slice 0, slice 1, ...                                       the ranges of `rows_of_shard`
    gates       as level 1, one a field

Without slices (one process that trains) there is one, which every key reads.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sketch.hashing import shard_of
from streams.assignments.row_ranges import rows_of_shard
from trainer.embedding.layout import LEVEL_1_SEED, LEVEL_2_SEEDS
from trainer.embedding.stores.two_level_kernels import hash_keys
from trainer.serving.shape import ServedShape

__all__ = ["PARTS", "gate_rows", "shared_addresses", "slice_addresses"]

PARTS = 2 * len(LEVEL_2_SEEDS)  # rows of level 2 that a key reads, a part of its vector from each
_SEEDS = np.array([LEVEL_1_SEED, *LEVEL_2_SEEDS], np.uint64)
_SMALL = 256  # gates that a byte numbers, as the trainer's kernels do


def slice_addresses(shape: ServedShape, shard: int, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
    """As `shared_addresses` of keys (K,) of one slice, counted from its first rows."""
    _, level_2_rows = rows_of_shard(shape.layout.level_2_rows, shape.slices, shard)
    addresses = np.empty((len(keys), 1 + (PARTS if level_2_rows else 0)), np.int32)
    hash_keys(keys, shape.level_1_per_block, level_2_rows, _SEEDS, addresses)
    return addresses


def shared_addresses(shape: ServedShape, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
    """The rows of keys (K,) that share rows: (K, 1 + `PARTS`), that of level 1 first; (K, 1) without level 2."""
    if shape.slices == 1:
        return slice_addresses(shape, 0, keys)
    addresses = np.empty((len(keys), 1 + (PARTS if shape.layout.level_2_rows else 0)), np.int32)
    shards, level_1_rows = shard_of(keys, shape.slices), shape.layout.num_fields * shape.level_1_per_block
    for shard in range(shape.slices):
        mine = np.flatnonzero(shards == shard)
        first, _ = rows_of_shard(shape.layout.level_2_rows, shape.slices, shard)
        shifts = np.full(addresses.shape[1], first, np.int32)
        shifts[0] = shard * level_1_rows
        addresses[mine] = slice_addresses(shape, shard, keys[mine]) + shifts
    return addresses


def gate_rows(shape: ServedShape, keys: npt.NDArray[np.uint64], fields: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The row of the gates (slices x F, 3) of each key (K,), whose fields (K,) count from 0.

    They are uint16 if there are more than 256 of them.
    """
    if shape.slices == 1:
        return fields
    rows = shard_of(keys, shape.slices) * shape.layout.num_fields + fields
    return rows.astype(np.uint8 if shape.num_gates <= _SMALL else np.uint16)
