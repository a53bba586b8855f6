"""Triton functions that read and train rows of every format, X rows of D values at a time.

A table is float32, int16 (the bits of bfloat16), int8 or uint8 (int4, two values a byte); scales are the bits of
bfloat16. Columns beyond D, up to the next power of two, read as 0 and are not written.
"""

from __future__ import annotations

import triton
import triton.language as tl

from trainer.embedding.fused.words import noise_bits, round_bfloat16, widen_bfloat16
from trainer.embedding.stores.kernels import TARGET

__all__ = ["BFLOAT16", "FLOAT32", "HALF_WIDTH", "INT4", "INT8", "read_rows", "train_rows"]

FLOAT32, BFLOAT16, INT8, INT4, HALF_WIDTH = (tl.constexpr(number) for number in range(5))
_TARGET = tl.constexpr(TARGET)


@triton.jit
def read_rows(table, scales, rows, columns, is_row, FORMAT: tl.constexpr, DIM: tl.constexpr):
    """The rows as float32 (X, D), 0 where `is_row` (X, 1) is false; rows are (X, 1) int64, or (X, D)."""
    mask = is_row & (columns < DIM)[None, :]
    if FORMAT == HALF_WIDTH:
        mask = mask & (columns < DIM // 2)[None, :]
        return tl.load(table + rows * (DIM // 2) + columns[None, :], mask, 0.0)
    if FORMAT == FLOAT32:
        return tl.load(table + rows * DIM + columns[None, :], mask, 0.0)
    if FORMAT == BFLOAT16:
        return widen_bfloat16(tl.load(table + rows * DIM + columns[None, :], mask, 0))
    scale = widen_bfloat16(tl.load(scales + rows, is_row, 0))
    if FORMAT == INT8:
        return tl.load(table + rows * DIM + columns[None, :], mask, 0).to(tl.float32) * scale
    half: tl.constexpr = (DIM + 1) // 2
    is_upper = (columns >= half)[None, :]
    byte = tl.where(columns >= half, columns - half, columns)[None, :]
    packed = tl.load(table + rows * half + byte, mask, 0).to(tl.int32)
    return (tl.where(is_upper, packed >> 4, packed & 15) - 8).to(tl.float32) * scale


@triton.jit
def train_rows(
    table,
    rows,
    columns,
    is_row,
    before,
    gradient,
    keep,
    epsilon,
    FORMAT: tl.constexpr,
    DIM: tl.constexpr,
    IS_ADAGRAD: tl.constexpr,
):
    """One optimizer step on distinct rows, as `RowStore._step_torch`, but for the last bits of root and quotient.

    Args:
        table: values, scales and state (R,) of the table; the word of its noise, int64; its learning rate; the number
            of the rows in the preceding stores.
        rows: (X,) int64.
        columns: (D,) int32.
        is_row: (X,) which rows to train.
        before: (X, D) float32, the rows as `read_rows` reads them.
        gradient: (X, D) float32.
        keep: the factor of the rows before the step.
        epsilon: of the optimizer.
    """
    values, scales, state, word, rate, first_row = table
    width: tl.constexpr = DIM // 2 if FORMAT == HALF_WIDTH else DIM
    mask = is_row[:, None] & (columns < width)[None, :]
    length = tl.zeros_like(rows).to(tl.float32) + rate
    if IS_ADAGRAD:
        squares = tl.sum(tl.where((columns < width)[None, :], gradient * gradient, 0.0), 1)
        stored = tl.load(state + rows, is_row, 0.0) + squares * (1.0 / width)
        tl.store(state + rows, stored, is_row)
        length = rate / (tl.sqrt(stored) + epsilon)
    after = before * keep - gradient * length[:, None]
    at = values + rows[:, None] * width + columns[None, :]
    if (FORMAT == FLOAT32) | (FORMAT == HALF_WIDTH):
        tl.store(at, after, mask)
    else:
        bits = noise_bits(rows + first_row, columns, word)
        if FORMAT == BFLOAT16:
            tl.store(at, ((after.to(tl.int32, bitcast=True) + bits) >> 16).to(tl.int16), mask)
        else:
            _store_scaled(values, scales, rows, columns, is_row, tl.where(mask, after, 0.0), bits, FORMAT, DIM)


@triton.jit
def _store_scaled(table, scales, rows, columns, is_row, values, bits, FORMAT: tl.constexpr, DIM: tl.constexpr):
    """Quantises values (X, D) with random bits (X, D); a row keeps its scale while its peak uses half of the range."""
    limit: tl.constexpr = 127.0 if FORMAT == INT8 else 7.0
    scale = widen_bfloat16(tl.load(scales + rows, is_row, 0))
    peaks = tl.max(tl.abs(values), 1)
    renewed = widen_bfloat16(round_bfloat16(tl.div_rn(peaks, tl.zeros_like(peaks) + _TARGET * limit)))
    kept = ((limit * scale * 0.5 <= peaks) & (peaks <= limit * scale)) | (renewed == 0)
    scale = tl.where(kept, scale, renewed)
    tl.store(scales + rows, (scale.to(tl.int32, bitcast=True) >> 16).to(tl.int16), is_row)
    offsets = (bits.to(tl.float32) + 0.5) / 65536.0
    divisors = tl.where(is_row, scale, 1.0)[:, None] + tl.zeros_like(values)
    whole = tl.floor(tl.div_rn(values, divisors) + offsets).to(tl.int32)
    if FORMAT == INT8:
        tl.store(
            table + rows[:, None] * DIM + columns[None, :],
            whole.to(tl.int8),
            is_row[:, None] & (columns < DIM)[None, :],
        )
    else:
        half: tl.constexpr = (DIM + 1) // 2
        codes = tl.where((columns < DIM)[None, :], whole + 8, 0)
        zeros = tl.zeros_like(codes)
        last: tl.constexpr = 2 * half - 1  # at most the number of columns: D is a power of two or less than one
        lower = columns[None, :] + zeros
        upper = tl.gather(codes, tl.where(lower + half <= last, lower + half, 0), 1)
        packed = (codes | (upper << 4)).to(tl.uint8)
        tl.store(table + rows[:, None] * half + columns[None, :], packed, is_row[:, None] & (columns < half)[None, :])
