"""Kernels that sum gradients by row in a fixed order and train each row once, without storing the sums.

The entries (a lookup, or a lookup's quarter) are sorted by row, so a row's entries are a segment. A tile is TILE
consecutive entries:

    tile 0            tile 1            tile 2
    a a a b c c c c | c c c c c c c c | c c d d d e e f        c crosses tiles: its parts are added up afterwards

`segment_kernel` sums the segments of each tile by a product with the 0/1 matrix of entries of equal rows, trains the
rows whose segment lies in one tile, and stores the sums of the others: each tile has at most a *head*, the part of a
segment that began before, and a *tail*, the part of one that begins here and goes on. `finish_kernel` adds a tail and
the heads that follow it, and trains that row. The order of every sum depends on the sorted entries only.

The products use three TF32 products for each float32 one, so a sum of n values is within (n + 8) 2^-23 of the sum of
their magnitudes. A value that is not finite spreads to the rows of its tile.

The same pass adds up the norms of a key's gradients (its importance), and the products of gradients and vectors by
field (the slopes of the gates).
"""

from __future__ import annotations

import triton
import triton.language as tl

from trainer.embedding.fused.gathering import part_of
from trainer.embedding.fused.row_access import read_rows, train_rows

__all__ = ["LEVEL_1", "LEVEL_2", "PLAIN", "UNIQUE", "finish_kernel", "segment_kernel"]

# The kind of a table: the first three are also the columns of its gates.
UNIQUE, LEVEL_1, LEVEL_2, PLAIN = (tl.constexpr(number) for number in range(4))
_MASK = tl.constexpr((1 << 63) - 1)
_TF32_BITS = tl.constexpr(-(1 << 13))
_AHEAD = tl.constexpr(32)  # heads that are added in one turn


@triton.jit
def _load_ids(ids, at, num_entries, num_rows, KIND: tl.constexpr):
    """The ids of entries, int64; of an entry that there is not, an id of no row."""
    if KIND == UNIQUE:
        return tl.load(ids + at, (at >= 0) & (at < num_entries), -1)
    if KIND == LEVEL_1:
        return tl.load(ids + at, (at >= 0) & (at < num_entries), 0)
    return tl.load(ids + at, (at >= 0) & (at < num_entries), num_rows).to(tl.int64)


@triton.jit
def _rows_of(ids, num_rows, KIND: tl.constexpr, ID_BITS: tl.constexpr):
    """The rows of ids, int64; -1 for an id of another table or of none."""
    if KIND == UNIQUE:
        return tl.where(ids >= 0, ids, -1)
    if KIND == LEVEL_1:
        return tl.where(ids < 0, (ids & _MASK) >> ID_BITS, -1)
    return tl.where(ids < num_rows, ids, -1)


@triton.jit
def _load_gradient(gradient, entries, columns, is_row, KIND: tl.constexpr, DIM: tl.constexpr):
    """The gradients (X, D) of entries, 0 outside of the entry's quarter; also their lookups (X,)."""
    mask, lookups = is_row[:, None] & (columns < DIM)[None, :], entries
    if KIND == LEVEL_2:
        lookups = entries >> 2
        mask = mask & ((entries & 3).to(tl.int32)[:, None] == part_of(columns, DIM)[None, :])
    return tl.load(gradient + lookups[:, None] * DIM + columns[None, :], mask, 0.0), lookups


@triton.jit
def _keep_part(parts, tile, columns, values, is_part, has_begun, DIM: tl.constexpr):
    """Stores the rows of values (X, D) that are a head (if it `has_begun` before) or a tail of the tile."""
    slots = tile * 2 + tl.where(has_begun, 0, 1)
    mask = is_part[:, None] & (columns < DIM)[None, :]
    tl.store(parts + slots.to(tl.int64)[:, None] * DIM + columns[None, :], values, mask)


@triton.jit
def _score_keys(
    entry_ids, at, start, norms, words, is_row, ids, scored, scores, parts, num_entries, KIND: tl.constexpr
):
    """Adds up the norms (X,) of each key; stores those of the keys whose entries lie in this tile, and parts."""
    size: tl.constexpr = entry_ids.shape[0]
    before, after = _load_ids(ids, start - 1, num_entries, 0, KIND), _load_ids(ids, start + size, num_entries, 0, KIND)
    is_last = (entry_ids != _load_ids(ids, at + 1, num_entries, 0, KIND)) | (at == start + size - 1)
    has_begun, goes_on = entry_ids == before, entry_ids == after
    same = (entry_ids[:, None] == entry_ids[None, :]) & is_row[None, :]
    totals = tl.sum(tl.where(same, norms[None, :], 0.0), 1)
    is_whole = is_last & (has_begun == 0) & (goes_on == 0)
    tl.store(scored + at, tl.where(is_whole, words, 0), is_row)
    tl.store(scores + at, tl.where(is_whole, totals, 0.0), is_row)
    slots = (start // size) * 2 + tl.where(has_begun, 0, 1)
    tl.store(parts + slots, totals, is_row & is_last & (has_begun | goes_on))


@triton.jit
def _upper_bits(values):
    """The values with the upper 11 of their 24 significant bits, which TF32 holds."""
    return (values.to(tl.int32, bitcast=True) & _TF32_BITS).to(tl.float32, bitcast=True)


@triton.jit
def _sum_equal_rows(rows, values):
    """For each entry the sum of the values (X, D) of the entries of equal rows (X,).

    It is a product with a matrix of 0 and 1. TF32 keeps 11 significant bits, so three exact terms of the values are
    multiplied; the sums are in float32.
    """
    same = (rows[:, None] == rows[None, :]).to(tl.float32)
    upper = _upper_bits(values)
    rest = values - upper
    middle = _upper_bits(rest)
    sums = tl.dot(same, rest - middle, input_precision="tf32")
    sums = tl.dot(same, middle, sums, input_precision="tf32")
    return tl.dot(same, upper, sums, input_precision="tf32")


@triton.jit
def _learn_tile(
    tile,
    ids,
    order,
    gradient,
    keys,
    fields,
    gates,
    table,
    scales,
    state,
    parts,
    score_parts,
    scored,
    scores,
    num_entries,
    num_rows,
    factor,
    keep,
    rate,
    epsilon,
    word,
    first_row,
    KIND: tl.constexpr,
    ID_BITS: tl.constexpr,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
    FORMAT: tl.constexpr,
    IS_ADAGRAD: tl.constexpr,
    FIELD_SLOTS: tl.constexpr,
):
    """Sums one tile, trains the rows that lie in it; returns the slopes of the gates by field (FIELD_SLOTS,)."""
    start = tile * TILE
    at, columns = start + tl.arange(0, TILE), tl.arange(0, COLUMNS)
    entry_ids = _load_ids(ids, at, num_entries, num_rows, KIND)
    rows = _rows_of(entry_ids, num_rows, KIND, ID_BITS)
    following = _rows_of(_load_ids(ids, at + 1, num_entries, num_rows, KIND), num_rows, KIND, ID_BITS)
    before = _rows_of(_load_ids(ids, start - 1, num_entries, num_rows, KIND), num_rows, KIND, ID_BITS)
    after = _rows_of(_load_ids(ids, start + TILE, num_entries, num_rows, KIND), num_rows, KIND, ID_BITS)
    is_row = rows >= 0
    entries = tl.load(order + at, is_row, 0)
    slopes, lookups = _load_gradient(gradient, entries, columns, is_row, KIND, DIM)
    vectors = read_rows(table, scales, rows[:, None], columns, is_row[:, None], FORMAT, DIM)
    by_field = tl.zeros((FIELD_SLOTS,), tl.float32)
    if KIND != PLAIN:
        field = tl.load(fields + lookups, is_row, 0).to(tl.int32)
        is_field = (field[:, None] == tl.arange(0, FIELD_SLOTS)[None, :]) & is_row[:, None]
        products = tl.sum(slopes * vectors, 1)
        by_field = tl.sum(tl.where(is_field, products[:, None], 0.0), 0)
        if KIND != LEVEL_2:
            norms = tl.sqrt_rn(tl.sum(slopes * slopes, 1)) * factor
            words = tl.load(keys + lookups, is_row, 0)
            _score_keys(entry_ids, at, start, norms, words, is_row, ids, scored, scores, score_parts, num_entries, KIND)
        slopes = slopes * tl.load(gates + field * 3 + KIND, is_row, 0.0)[:, None]
    sums = _sum_equal_rows(rows, slopes)
    is_last = is_row & ((rows != following) | (at == start + TILE - 1))
    has_begun, goes_on = rows == before, rows == after
    _keep_part(parts, tile, columns, sums, is_last & (has_begun | goes_on), has_begun, DIM)
    tl.debug_barrier()  # every thread has read the rows before one of them is written
    is_whole = is_last & (has_begun == 0) & (goes_on == 0)
    train_rows(
        table,
        scales,
        state,
        rows,
        columns,
        is_whole,
        vectors,
        sums,
        keep,
        rate,
        epsilon,
        word,
        first_row,
        FORMAT,
        DIM,
        IS_ADAGRAD,
    )
    return by_field


@triton.jit
def segment_kernel(
    ids,
    order,
    gradient,
    keys,
    fields,
    gates,
    table,
    scales,
    state,
    parts,
    score_parts,
    scored,
    scores,
    field_slopes,
    accept,
    num_entries,
    num_rows,
    factor,
    keep,
    rate,
    epsilon,
    word,
    first_row,
    KIND: tl.constexpr,
    ID_BITS: tl.constexpr,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    FORMAT: tl.constexpr,
    IS_ADAGRAD: tl.constexpr,
    NUM_FIELDS: tl.constexpr,
    FIELD_SLOTS: tl.constexpr,
):
    """Trains the rows of one table whose segments lie in a tile; each program handles TILES tiles.

    Args:
        ids: (M,) sorted; of the kind `LEVEL_2` and `PLAIN` int32 rows, otherwise int64 as `route_kernel` makes them.
        order: (M,) int64, the entry at each sorted position: a lookup n, or 4 n + quarter.
        gradient: (N, D) float32.
        keys: (N,) int64.
        fields: (N,) uint8.
        gates: (F, 3) float32.
        table: the rows, with `scales` and `state` (R,).
        parts: (tiles, 2, D) float32, filled with heads and tails.
        score_parts: (tiles, 2) float32, filled with those of the keys' scores.
        scored: (N,) int64, filled with a key where one ends, otherwise 0; `scores` (N,) with its score.
        field_slopes: (F, programs) float32, filled.
        accept: a bool (), false if nothing is to be trained and `field_slopes` are 0; None for true.
        num_entries: M.
        num_rows: R.
        factor: of the norms: the rows B of the batch.
        keep: as for `train_rows`.
    """
    program, numbers = tl.program_id(0), tl.arange(0, FIELD_SLOTS)
    by_field = tl.zeros((FIELD_SLOTS,), tl.float32)
    if accept is not None:
        num_entries = num_entries * tl.load(accept).to(tl.int32)
    for turn in range(TILES):
        tile = program * TILES + turn
        # Hot ids stand behind all others, so an end of the tile tells whether it has rows of this table.
        end = tl.minimum(tile * TILE + TILE, num_entries) - 1
        probe = end if KIND == UNIQUE else tile * TILE
        known = _load_ids(ids, probe, num_entries, num_rows, KIND)
        if (tile * TILE < num_entries) & (_rows_of(known, num_rows, KIND, ID_BITS) >= 0):
            by_field += _learn_tile(
                tile,
                ids,
                order,
                gradient,
                keys,
                fields,
                gates,
                table,
                scales,
                state,
                parts,
                score_parts,
                scored,
                scores,
                num_entries,
                num_rows,
                factor,
                keep,
                rate,
                epsilon,
                word,
                first_row,
                KIND,
                ID_BITS,
                DIM,
                COLUMNS,
                TILE,
                FORMAT,
                IS_ADAGRAD,
                FIELD_SLOTS,
            )
    if KIND != PLAIN:
        tl.store(field_slopes + numbers * tl.num_programs(0) + program, by_field, numbers < NUM_FIELDS)


@triton.jit
def _finish_score(
    ids, order, keys, score_parts, scored, scores, tile, num_entries, num_rows, KIND: tl.constexpr, TILE: tl.constexpr
):
    """Adds up the score of the key that begins in a tile and goes on."""
    start, end = tile * TILE, tile * TILE + TILE
    last = _load_ids(ids, end - 1, num_entries, num_rows, KIND)
    goes_on = (last == _load_ids(ids, end, num_entries, num_rows, KIND)) & (end < num_entries)
    if goes_on & (last != _load_ids(ids, start - 1, num_entries, num_rows, KIND)):
        total = tl.load(score_parts + tile * 2 + 1)
        coming = tile + 1 + tl.arange(0, _AHEAD)
        count = tl.program_id(0) * 0 + _AHEAD
        while count == _AHEAD:
            is_part = _load_ids(ids, coming * TILE, num_entries, num_rows, KIND) == last
            is_part = is_part & (coming * TILE < num_entries)
            total += tl.sum(tl.load(score_parts + coming * 2, is_part, 0.0))
            count = tl.sum(is_part.to(tl.int32))
            coming += _AHEAD
        tl.store(scored + end - 1, tl.load(keys + tl.load(order + end - 1)))
        tl.store(scores + end - 1, total)


@triton.jit
def finish_kernel(
    ids,
    order,
    keys,
    table,
    scales,
    state,
    parts,
    score_parts,
    scored,
    scores,
    accept,
    num_entries,
    num_rows,
    keep,
    rate,
    epsilon,
    word,
    first_row,
    KIND: tl.constexpr,
    ID_BITS: tl.constexpr,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
    FORMAT: tl.constexpr,
    IS_ADAGRAD: tl.constexpr,
):
    """Trains the row, and stores the score of the key, whose segment begins in a tile and goes on; one program a tile.

    The arguments are those of `segment_kernel`.
    """
    tile, columns = tl.program_id(0), tl.arange(0, COLUMNS)
    start, end = tile * TILE, tile * TILE + TILE
    if accept is not None:
        num_entries = num_entries * tl.load(accept).to(tl.int32)
    row = _rows_of(_load_ids(ids, end - 1, num_entries, num_rows, KIND), num_rows, KIND, ID_BITS)
    before = _rows_of(_load_ids(ids, start - 1, num_entries, num_rows, KIND), num_rows, KIND, ID_BITS)
    after = _rows_of(_load_ids(ids, end, num_entries, num_rows, KIND), num_rows, KIND, ID_BITS)
    if (row >= 0) & (row == after):
        if row != before:
            is_column = columns < DIM
            total = tl.load(parts + (tile * 2 + 1).to(tl.int64) * DIM + columns, is_column, 0.0)
            coming = tile + 1 + tl.arange(0, _AHEAD)
            count = tl.program_id(0) * 0 + _AHEAD
            while count == _AHEAD:
                first = _load_ids(ids, coming * TILE, num_entries, num_rows, KIND)
                is_part = _rows_of(first, num_rows, KIND, ID_BITS) == row
                heads = parts + (coming * 2).to(tl.int64)[:, None] * DIM + columns[None, :]
                total += tl.sum(tl.load(heads, is_part[:, None] & is_column[None, :], 0.0), 0)
                count = tl.sum(is_part.to(tl.int32))
                coming += _AHEAD
            rows = row + tl.zeros((1,), tl.int64)
            is_row = rows >= 0
            vectors = read_rows(table, scales, rows[:, None], columns, is_row[:, None], FORMAT, DIM)
            tl.debug_barrier()
            train_rows(
                table,
                scales,
                state,
                rows,
                columns,
                is_row,
                vectors,
                total[None, :],
                keep,
                rate,
                epsilon,
                word,
                first_row,
                FORMAT,
                DIM,
                IS_ADAGRAD,
            )
        if (KIND == UNIQUE) | (KIND == LEVEL_1):
            _finish_score(ids, order, keys, score_parts, scored, scores, tile, num_entries, num_rows, KIND, TILE)
