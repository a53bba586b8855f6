"""Kernels that turn keys into row numbers: the route of a key of an adaptive embedding, or the row of a hash table.

N lookups, W buckets of the router's map, R rows of level 1

    rows      (N,) int32      a unique row, or -1 - r for a key that reads row r of level 1
    quarters  (N, 4) int32    rows of level 2; `level_2_rows` for a hot key, which reads none
    ids       (N,) int64      equal for equal keys; in ascending order the rows, and the keys of a row, are together

    id of a hot key     its unique row
    id of another key   negative: row of level 1, then the payload

The payload takes 56 bits, which leaves 7 for the row. With more than 128 rows of level 1 as many bits of a hash replace
the payload as are left, 53 for 1,020 rows: then two keys of one row that have the same bits count as one key in a
step's importance. Their vectors and gradients are not affected.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sketch.keymap import ABSENT, SLOTS
from streams.keys import MAX_FIELDS, PAYLOAD_BITS
from trainer.embedding.fused.words import hash_below, mix64
from trainer.embedding.layout import LEVEL_1_SEED, LEVEL_2_SEEDS

__all__ = ["hash_kernel", "id_bits", "route_kernel"]

_ABSENT, _SLOTS = tl.constexpr(ABSENT), tl.constexpr(SLOTS)
_PAYLOAD_BITS, _FIELD_MASK = tl.constexpr(PAYLOAD_BITS), tl.constexpr(MAX_FIELDS)
_SEED, _SEED_A, _SEED_B = (tl.constexpr(int(seed)) for seed in (LEVEL_1_SEED, *LEVEL_2_SEEDS))
_PAYLOAD_MASK = tl.constexpr((1 << PAYLOAD_BITS) - 1)
_LOW = tl.constexpr(0xFFFFFFFF)
_COLD = tl.constexpr(-(1 << 63))


def id_bits(level_1_rows: int) -> int:
    """The bits of a shared key's id below its row of level 1."""
    return 63 - max(1, (level_1_rows - 1).bit_length())


@triton.jit
def _fields_of(words, NUM_FIELDS: tl.constexpr):
    """The fields of keys (X,) uint64, counted from 0 and clamped: int32."""
    fields = ((words >> _PAYLOAD_BITS) & _FIELD_MASK).to(tl.int32) - 1
    return tl.minimum(tl.maximum(fields, 0), NUM_FIELDS - 1)


@triton.jit
def _level_1_rows(words, fields, per_field):
    """The row of level 1 of keys (X,), and the word that determines it."""
    mixed = mix64(words ^ _SEED)
    return fields * per_field + hash_below(mixed >> 32, per_field), mixed


@triton.jit
def _find(words, slots, values, num_buckets, is_key):
    """`KeyMap.get` for keys (X,) uint64 over its arrays: int32, `ABSENT` without one."""
    mixed = mix64(words)
    found = tl.zeros_like(words).to(tl.int32) + _ABSENT
    for half in tl.static_range(2):
        bucket = hash_below((mixed >> (32 * half)) & _LOW, num_buckets).to(tl.int64) * _SLOTS
        for slot in tl.static_range(_SLOTS):
            key = tl.load(slots + bucket + slot, is_key, 0).to(tl.uint64, bitcast=True)
            row = tl.load(values + bucket + slot, is_key, _ABSENT)
            found = tl.where(key == words, tl.maximum(found, row), found)
    return tl.where(words == 0, _ABSENT, found)


@triton.jit
def route_kernel(
    keys,
    slots,
    values,
    rows,
    fields,
    quarters,
    ids,
    num_lookups,
    num_buckets,
    per_field,
    level_2_rows,
    NUM_FIELDS: tl.constexpr,
    HAS_LEVEL_2: tl.constexpr,
    ID_BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Fills rows, fields (N,) uint8, quarters and ids of keys (N,) int64; the map is slots (W, 4) and values (W, 4)."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_key = at < num_lookups
    words = tl.load(keys + at, is_key, 0).to(tl.uint64, bitcast=True)
    field = _fields_of(words, NUM_FIELDS)
    unique = _find(words, slots, values, num_buckets, is_key)
    level_1, mixed = _level_1_rows(words, field, per_field)
    is_hot = unique >= 0
    tl.store(rows + at, tl.where(is_hot, unique, -1 - level_1), is_key)
    tl.store(fields + at, field.to(tl.uint8), is_key)
    if ID_BITS >= _PAYLOAD_BITS:
        rest = words & _PAYLOAD_MASK
    else:
        rest = (mixed << (64 - ID_BITS)) >> (64 - ID_BITS)
    cold = (level_1.to(tl.int64) << ID_BITS) | rest.to(tl.int64, bitcast=True) | _COLD
    tl.store(ids + at, tl.where(is_hot, unique.to(tl.int64), cold), is_key)
    if HAS_LEVEL_2:
        _store_quarters(quarters, words, level_2_rows, is_hot, at, is_key, BLOCK)


@triton.jit
def _store_quarters(quarters, words, level_2_rows, is_hot, at, is_key, BLOCK: tl.constexpr):
    first, second = mix64(words ^ _SEED_A), mix64(words ^ _SEED_B)
    evens = tl.join(hash_below(first >> 32, level_2_rows), hash_below(second >> 32, level_2_rows))  # quarters 0 and 2
    odds = tl.join(hash_below(first & _LOW, level_2_rows), hash_below(second & _LOW, level_2_rows))  # quarters 1 and 3
    four = tl.reshape(tl.join(evens, odds), (BLOCK, 4))
    four = tl.where(is_hot[:, None], level_2_rows, four)
    tl.store(quarters + at[:, None] * 4 + tl.arange(0, 4)[None, :], four, is_key[:, None])


@triton.jit
def hash_kernel(keys, rows, num_lookups, per_field, NUM_FIELDS: tl.constexpr, BLOCK: tl.constexpr):
    """Fills `rows` (N,) int32 with the hashed row of each of keys (N,) int64, as `gathers.level_rows`."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_key = at < num_lookups
    words = tl.load(keys + at, is_key, 0).to(tl.uint64, bitcast=True)
    row, _ = _level_1_rows(words, _fields_of(words, NUM_FIELDS), per_field)
    tl.store(rows + at, row, is_key)
