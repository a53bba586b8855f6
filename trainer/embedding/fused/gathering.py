"""The kernel that reads the vectors of lookups: a whole row, and the quarters of level 2 of a shared key, times gates.

N lookups, D values a row, F fields
"""

from __future__ import annotations

import triton
import triton.language as tl

from trainer.embedding.fused.row_access import read_rows

__all__ = ["gather_kernel", "part_of"]


@triton.jit
def part_of(columns, DIM: tl.constexpr):
    """The quarter of level 2 that each column (D,) belongs to: part p has columns p D / 4 to (p + 1) D / 4."""
    parts = (columns >= DIM // 4).to(tl.int32) + (columns >= 2 * DIM // 4).to(tl.int32)
    return parts + (columns >= 3 * DIM // 4).to(tl.int32)


@triton.jit
def _read_quarters(table, scales, quarters, at, columns, is_cold, FORMAT: tl.constexpr, DIM: tl.constexpr):
    """The vectors (X, D) that rows `quarters` (N, 4) of level 2 compose for lookups `at` (X,)."""
    part = part_of(columns, DIM)[None, :]
    rows = tl.load(quarters + at * 4, is_cold, 0)[:, None]
    for number in tl.static_range(1, 4):
        rows = tl.where(part >= number, tl.load(quarters + at * 4 + number, is_cold, 0)[:, None], rows)
    return read_rows(table, scales, rows.to(tl.int64), columns, is_cold[:, None], FORMAT, DIM)


@triton.jit
def gather_kernel(
    out,
    rows,
    fields,
    quarters,
    gates,
    unique,
    unique_scales,
    first,
    first_scales,
    second,
    second_scales,
    num_lookups,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    UNIQUE_FORMAT: tl.constexpr,
    SHARED_FORMAT: tl.constexpr,
    HAS_LEVEL_2: tl.constexpr,
    IS_GATED: tl.constexpr,
):
    """Writes the vectors (N, D) of lookups to `out`.

    Args:
        out: (N, D) float32.
        rows: (N,) int32, as `route_kernel` fills it; without gates every row is one of `unique`.
        fields: (N,) uint8.
        quarters: (N, 4) int32.
        gates: (F, 3) float32.
        unique: the rows of hot keys; `first` and `second` are those of both levels.
    """
    at = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    is_there = at < num_lookups
    row = tl.load(rows + at, is_there, 0).to(tl.int64)
    is_hot = is_there & (row >= 0)
    vectors = read_rows(unique, unique_scales, row[:, None], columns, is_hot[:, None], UNIQUE_FORMAT, DIM)
    if IS_GATED:
        is_cold = is_there & (row < 0)
        gate = gates + tl.load(fields + at, is_there, 0).to(tl.int32) * 3
        shared = read_rows(first, first_scales, -1 - row[:, None], columns, is_cold[:, None], SHARED_FORMAT, DIM)
        shared = shared * tl.load(gate + 1, is_cold, 0.0)[:, None]
        if HAS_LEVEL_2:
            quartered = _read_quarters(second, second_scales, quarters, at, columns, is_cold, SHARED_FORMAT, DIM)
            shared = shared + quartered * tl.load(gate + 2, is_cold, 0.0)[:, None]
        vectors = vectors * tl.load(gate, is_hot, 0.0)[:, None] + shared
    tl.store(out + at[:, None] * DIM + columns[None, :], vectors, is_there[:, None] & (columns < DIM)[None, :])
