"""Triton functions that sum gradients by row in a fixed order and train each row once, without storing the sums.

The entries (a lookup, or a lookup's quarter) are sorted by row, so a row's entries are a segment. A span is the
consecutive entries of one program, which goes through them TILE at a time:

    span 0            span 1            span 2
    a a a b c c c c | c c c c c c c c | c c d d d e e f        c crosses spans: its parts are added up afterwards

`learn_span` adds the gradients of each segment one after the other, in the order of the entries, and trains the rows
whose segment lies in the span. It stores the sums of the others: each span has at most a *head*, the part of a segment
that began before, and a *tail*, the part of one that begins here and goes on. `finish_row` adds a tail and the heads
that follow it, and trains that row. So the order of every sum depends on the entries only.

The same pass adds up the norms of a key's gradients (its importance), and the products of gradients and vectors by
field (the slopes of the gates).

M entries, N lookups, D values a row, X entries of a tile
"""

from __future__ import annotations

import triton
import triton.language as tl

from trainer.embedding.backends import is_interpreted
from trainer.embedding.fused import marking
from trainer.embedding.fused.gathering import part_of
from trainer.embedding.fused.row_access import read_rows, train_rows

__all__ = ["LEVEL_1", "LEVEL_2", "PLAIN", "UNIQUE", "finish_row", "finish_score", "learn_span", "sum_segments"]

# The kind of a table: the first three are also the columns of its gates.
UNIQUE, LEVEL_1, LEVEL_2, PLAIN = (tl.constexpr(number) for number in range(4))
_BEGINS, _ENDS, _IS_PART, _IS_TAIL = marking.BEGINS, marking.ENDS, marking.IS_PART, marking.IS_TAIL
_OF_KEY = marking.OF_KEY
_AHEAD = tl.constexpr(32)  # heads that are added in one turn
_IS_INTERPRETED = tl.constexpr(is_interpreted())


@triton.jit
def _add(one, one_begins, other, other_begins):
    return tl.where(other_begins != 0, other, one + other), one_begins | other_begins


@triton.jit
def sum_segments(values, begins, INTERPRETED: tl.constexpr):
    """Adds to each of the values (X, D) all before it, back to the last that begins a segment: `begins` (X,) int32.

    The interpreter takes seconds for a scan, so there it is a product with a matrix of 0 and 1.
    """
    if INTERPRETED:
        segments, at = tl.cumsum(begins, 0), tl.arange(0, begins.shape[0])
        is_same = (segments[:, None] == segments[None, :]) & (at[:, None] >= at[None, :])
        sums = tl.dot(is_same.to(tl.float32), values)
    else:
        sums, _ = tl.associative_scan((values, begins[:, None] + tl.zeros(values.shape, tl.int32)), 0, _add)
    return sums


@triton.jit
def _last_of(values):
    """The last row (D,) of values (X, D); the bits are added, because 0.0 + -0.0 is not -0.0."""
    at, bits = tl.arange(0, values.shape[0]), values.to(tl.int32, bitcast=True)
    return tl.sum(tl.where((at == values.shape[0] - 1)[:, None], bits, 0), 0).to(tl.float32, bitcast=True)


@triton.jit
def _sum_from(values, carried, begins):
    """`sum_segments`, if the first does not begin a segment from a sum `carried` (D,) on; and what is carried on."""
    joins = (tl.arange(0, values.shape[0]) == 0) & (begins == 0)
    sums = sum_segments(tl.where(joins[:, None], values + carried[None, :], values), begins, _IS_INTERPRETED)
    return sums, _last_of(sums)


@triton.jit
def _learn_ends(
    span,
    entries,
    is_row,
    is_end,
    row,
    slopes,
    gates,
    table,
    parts,
    carried,
    keep,
    epsilon,
    KIND: tl.constexpr,
    DIM: tl.constexpr,
    FORMAT: tl.constexpr,
    IS_ADAGRAD: tl.constexpr,
    FIELD_SLOTS: tl.constexpr,
):
    """Trains the rows that end in a tile and keeps its parts; returns the slopes of the gates and what is carried on.

    Of the kind `LEVEL_2` a row serves several fields, so the gradients `slopes` (X, D) are weighed before they are
    summed; otherwise they have been summed.
    """
    mark, field = entries
    columns, numbers = tl.arange(0, slopes.shape[1]), tl.arange(0, FIELD_SLOTS)
    by_field = tl.zeros((FIELD_SLOTS,), tl.float32)
    is_used = is_row if KIND == LEVEL_2 else is_end
    vectors = read_rows(table[0], table[1], row[:, None], columns, is_used[:, None], FORMAT, DIM)
    if KIND != PLAIN:
        products = tl.sum(slopes * vectors, 1)
        is_field = (field[:, None] == numbers[None, :]) & is_used[:, None]
        by_field = tl.sum(tl.where(is_field, products[:, None], 0.0), 0)
        slopes = slopes * tl.load(gates + field * 3 + KIND, is_used, 0.0)[:, None]
    if KIND == LEVEL_2:
        slopes, carried = _sum_from(slopes, carried, mark & _BEGINS)
    is_part = mark & _IS_PART != 0
    slots = tl.where(mark & _IS_TAIL != 0, DIM, 0)[:, None] + columns[None, :]
    at = parts + span.to(tl.int64) * (2 * DIM) + slots
    tl.store(at, slopes, (is_end & is_part)[:, None] & (columns < DIM)[None, :])
    tl.debug_barrier()  # every thread has read the rows before one of them is written
    is_whole = is_end & (is_part == 0)
    train_rows(table, row, columns, is_whole, vectors, slopes, keep, epsilon, FORMAT, DIM, IS_ADAGRAD)
    return by_field, carried


@triton.jit
def _score_keys(span, at, mark, entry, is_row, norms, carried, scoring):
    """Adds up the norms (X,) of each key and stores them where it ends; returns what is carried on."""
    keys, score_parts, scored, scores, _ = scoring
    number = tl.arange(0, norms.shape[0])
    is_earlier = number[None, :] <= number[:, None]
    key = tl.sum(tl.where(is_earlier, ((mark // _OF_KEY) & _BEGINS)[None, :], 0), 1)  # keys that began in this tile
    is_same = is_earlier & (key[:, None] == key[None, :])
    totals = tl.sum(tl.where(is_same, norms[None, :], 0.0), 1) + tl.where(key == 0, carried, 0.0)
    carried = tl.sum(tl.where(number == norms.shape[0] - 1, totals, 0.0))
    is_end = is_row & (mark & (_OF_KEY * _ENDS) != 0)
    is_part = is_end & (mark & (_OF_KEY * _IS_PART) != 0)
    is_whole = is_end & (is_part == 0)
    tl.store(scored + at, tl.load(keys + entry, is_whole, 0), is_row)
    tl.store(scores + at, tl.where(is_whole, totals, 0.0), is_row)
    slot = tl.where(mark & (_OF_KEY * _IS_TAIL) != 0, 1, 0)
    tl.store(score_parts + span * 2 + slot, totals, is_part)
    return carried


@triton.jit
def learn_span(
    span,
    entries,
    gradient,
    gates,
    table,
    parts,
    scoring,
    keep,
    epsilon,
    KIND: tl.constexpr,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    FORMAT: tl.constexpr,
    IS_ADAGRAD: tl.constexpr,
    FIELD_SLOTS: tl.constexpr,
):
    """Sums the entries of a span and trains the rows that lie in it.

    Args:
        span: number of the span.
        entries: rows, entries, marks and fields (M,), as `mark_kernel` fills them.
        gradient: (N, D) float32.
        gates: (F, 3) float32.
        table: as for `train_rows`.
        parts: (spans, 2, D) float32, filled with heads and tails.
        scoring: keys (N,) int64; (spans, 2) float32, filled with the heads and tails of the keys' scores; (N,) int64,
            filled with a key where one ends, otherwise 0; (N,) float32, filled with its score; the factor of the norms,
            which is the rows B of the batch.
        keep: as for `train_rows`.
        epsilon: likewise.

    Returns:
        The slopes of the table's gates, by field (FIELD_SLOTS,).
    """
    columns = tl.arange(0, COLUMNS)
    by_field, carried = tl.zeros((FIELD_SLOTS,), tl.float32), tl.zeros((COLUMNS,), tl.float32)
    carried_score = tl.sum(carried)
    for turn in range(TILES):
        at = span * (TILE * TILES) + turn * TILE + tl.arange(0, TILE)
        row, entry, mark = tl.load(entries[0] + at), tl.load(entries[1] + at), tl.load(entries[2] + at).to(tl.int32)
        field = tl.load(entries[3] + at).to(tl.int32) if KIND != PLAIN else mark
        row = -2 - row if KIND == LEVEL_1 else row
        is_row = row >= 0
        is_end = is_row & (mark & _ENDS != 0)
        row = tl.where(is_row, row, 0).to(tl.int64)
        mask = is_row[:, None] & (columns < DIM)[None, :]
        if KIND == LEVEL_2:
            mask = mask & ((entry & 3)[:, None] == part_of(columns, DIM)[None, :])
            entry = entry >> 2
        slopes = tl.load(gradient + entry[:, None].to(tl.int64) * DIM + columns[None, :], mask, 0.0)
        if (KIND == UNIQUE) | (KIND == LEVEL_1):
            norms = tl.sqrt(tl.sum(slopes * slopes, 1)) * scoring[4]
            carried_score = _score_keys(span, at, mark, entry, is_row, norms, carried_score, scoring)
        if KIND != LEVEL_2:
            slopes, carried = _sum_from(slopes, carried, mark & _BEGINS)
        has_end = tl.max(is_end.to(tl.int32)) > 0
        if has_end | (KIND == LEVEL_2):
            found, carried = _learn_ends(
                span,
                (mark, field),
                is_row,
                is_end,
                row,
                slopes,
                gates,
                table,
                parts,
                carried,
                keep,
                epsilon,
                KIND,
                DIM,
                FORMAT,
                IS_ADAGRAD,
                FIELD_SLOTS,
            )
            by_field += found
    return by_field


@triton.jit
def finish_score(span, ids, entries, scoring, num_entries, SPAN: tl.constexpr):
    """Adds up the score of the key that begins in a span and goes on.

    The arguments are those of `learn_span`, and ids (N,), the sorted ids of `route_kernel`.
    """
    keys, score_parts, scored, scores, _ = scoring
    last = span * SPAN + SPAN - 1
    if tl.load(entries[2] + last).to(tl.int32) & (_OF_KEY * _IS_TAIL) != 0:
        known, total = tl.load(ids + last), tl.load(score_parts + span * 2 + 1)
        coming = span + 1 + tl.arange(0, _AHEAD)
        count = span * 0 + _AHEAD
        while count == _AHEAD:
            is_there = coming * SPAN < num_entries
            is_part = is_there & (tl.load(ids + coming * SPAN, is_there, 0) == known)
            total += tl.sum(tl.load(score_parts + coming * 2, is_part, 0.0))
            count = tl.sum(is_part.to(tl.int32))
            coming += _AHEAD
        tl.store(scored + last, tl.load(keys + tl.load(entries[1] + last)))
        tl.store(scores + last, total)


@triton.jit
def finish_row(
    span,
    num_spans,
    rows,
    table,
    parts,
    keep,
    epsilon,
    KIND: tl.constexpr,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPAN: tl.constexpr,
    FORMAT: tl.constexpr,
    IS_ADAGRAD: tl.constexpr,
):
    """Trains the row of the tail of a span; the arguments are those of `learn_span`, and rows (M,)."""
    columns = tl.arange(0, COLUMNS)
    is_column = columns < DIM
    known = tl.load(rows + span * SPAN + SPAN - 1)
    total = tl.load(parts + (span * 2 + 1).to(tl.int64) * DIM + columns, is_column, 0.0)
    coming = span + 1 + tl.arange(0, _AHEAD)
    count = span * 0 + _AHEAD
    while count == _AHEAD:
        is_there = coming < num_spans
        is_part = is_there & (tl.load(rows + coming * SPAN, is_there, -1) == known)
        heads = parts + (coming * 2).to(tl.int64)[:, None] * DIM + columns[None, :]
        total += tl.sum(tl.load(heads, is_part[:, None] & is_column[None, :], 0.0), 0)
        count = tl.sum(is_part.to(tl.int32))
        coming += _AHEAD
    row = (-2 - known if KIND == LEVEL_1 else known).to(tl.int64) + tl.zeros((1,), tl.int64)
    is_row = row >= 0
    vectors = read_rows(table[0], table[1], row[:, None], columns, is_row[:, None], FORMAT, DIM)
    tl.debug_barrier()
    train_rows(table, row, columns, is_row, vectors, total[None, :], keep, epsilon, FORMAT, DIM, IS_ADAGRAD)
