"""The kernels of a backward pass: `train_kernel` and `finish_kernel` for the three tables of an adaptive embedding.

Programs of both, of which those without an entry of their table end at once:

    0 to S - 1        a span of the entries sorted by id: rows of level 1, then of hot keys
    S to S + Q - 1    a span of the quarters sorted by row: rows of level 2
    then, 3 F         a gate (of `finish_kernel`)

`train_plain_kernel` and `finish_plain_kernel` do the same for a single table without gates.
"""

from __future__ import annotations

import triton
import triton.language as tl

from trainer.embedding.fused import marking, segments
from trainer.embedding.fused.gating import train_gate
from trainer.embedding.fused.segments import finish_row, finish_score, learn_span

__all__ = ["finish_kernel", "finish_plain_kernel", "train_kernel", "train_plain_kernel"]

_UNIQUE, _LEVEL_1, _LEVEL_2, _PLAIN = segments.UNIQUE, segments.LEVEL_1, segments.LEVEL_2, segments.PLAIN
_IS_TAIL = marking.IS_TAIL


@triton.jit
def train_kernel(
    entries,
    quarters,
    gradient,
    gates,
    unique,
    first,
    second,
    parts,
    slopes,
    scoring,
    num_spans,
    num_quarter_spans,
    num_entries,
    keep,
    epsilon,
    accept,
    HAS_LEVEL_2: tl.constexpr,
    NUM_FIELDS: tl.constexpr,
    FIELD_SLOTS: tl.constexpr,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    UNIQUE_FORMAT: tl.constexpr,
    SHARED_FORMAT: tl.constexpr,
    IS_ADAGRAD: tl.constexpr,
):
    """Trains the rows whose segment lies in a span.

    Args:
        entries: of ids, as for `learn_span`; `quarters` those of quarters.
        gradient: (N, D) float32.
        gates: (F, 3) float32.
        unique: the table of hot keys, as for `train_rows`; `first` and `second` are those of both levels.
        parts: (S, 2, D) and (Q, 2, D) float32, filled with heads and tails.
        slopes: of the gates, (F, S), (F, S) and (F, Q) float32, filled.
        scoring: as for `learn_span`.
        num_spans: S, `num_quarter_spans` Q.
        num_entries: N.
        keep: the factor of rows of level 2 before the step.
        epsilon: of the optimizer.
        accept: a bool (); if it is false, nothing is trained.
    """
    if not tl.load(accept):
        return
    program, numbers = tl.program_id(0), tl.arange(0, FIELD_SLOTS)
    is_field, span_size = numbers < NUM_FIELDS, TILE * TILES
    if program < num_spans:
        span = program
        if tl.load(entries[0] + span * span_size) < -1:
            by_field = learn_span(
                *(span, entries, gradient, gates, first, parts[0], scoring, 1.0, epsilon),
                *(_LEVEL_1, DIM, COLUMNS, TILE, TILES, SHARED_FORMAT, IS_ADAGRAD, FIELD_SLOTS),
            )
            tl.store(slopes[1] + numbers * num_spans + span, by_field, is_field)
        if tl.load(entries[0] + tl.minimum(span * span_size + span_size, num_entries) - 1) >= 0:
            by_field = learn_span(
                *(span, entries, gradient, gates, unique, parts[0], scoring, 1.0, epsilon),
                *(_UNIQUE, DIM, COLUMNS, TILE, TILES, UNIQUE_FORMAT, IS_ADAGRAD, FIELD_SLOTS),
            )
            tl.store(slopes[0] + numbers * num_spans + span, by_field, is_field)
    elif HAS_LEVEL_2:
        span = program - num_spans
        if tl.load(quarters[0] + span * span_size) >= 0:
            by_field = learn_span(
                *(span, quarters, gradient, gates, second, parts[1], scoring, keep, epsilon),
                *(_LEVEL_2, DIM, COLUMNS, TILE, TILES, SHARED_FORMAT, IS_ADAGRAD, FIELD_SLOTS),
            )
            tl.store(slopes[2] + numbers * num_quarter_spans + span, by_field, is_field)


@triton.jit
def finish_kernel(  # noqa: C901  one branch for each table and gate
    ids,
    entries,
    quarters,
    gate,
    unique,
    first,
    second,
    parts,
    slopes,
    scoring,
    num_spans,
    num_quarter_spans,
    num_entries,
    keep,
    epsilon,
    accept,
    HAS_LEVEL_2: tl.constexpr,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPAN: tl.constexpr,
    UNIQUE_FORMAT: tl.constexpr,
    SHARED_FORMAT: tl.constexpr,
    IS_ADAGRAD: tl.constexpr,
):
    """Trains the rows whose segment crosses spans, and the gates.

    The arguments are those of `train_kernel`; the sorted ids (N,); and the gate, as for `train_gate`.
    """
    if not tl.load(accept):
        return
    program = tl.program_id(0)
    if program < num_spans:
        span, last = program, program * SPAN + SPAN - 1
        if tl.load(entries[2] + last).to(tl.int32) & _IS_TAIL != 0:
            if tl.load(entries[0] + last) < 0:
                finish_row(
                    *(span, num_spans, entries[0], first, parts[0], 1.0, epsilon),
                    *(_LEVEL_1, DIM, COLUMNS, SPAN, SHARED_FORMAT, IS_ADAGRAD),
                )
            else:
                finish_row(
                    *(span, num_spans, entries[0], unique, parts[0], 1.0, epsilon),
                    *(_UNIQUE, DIM, COLUMNS, SPAN, UNIQUE_FORMAT, IS_ADAGRAD),
                )
        finish_score(span, ids, entries, scoring, num_entries, SPAN)
    elif program < num_spans + num_quarter_spans:
        if HAS_LEVEL_2:
            span, last = program - num_spans, (program - num_spans) * SPAN + SPAN - 1
            if (tl.load(quarters[2] + last).to(tl.int32) & _IS_TAIL != 0) & (tl.load(quarters[0] + last) >= 0):
                finish_row(
                    *(span, num_quarter_spans, quarters[0], second, parts[1], keep, epsilon),
                    *(_LEVEL_2, DIM, COLUMNS, SPAN, SHARED_FORMAT, IS_ADAGRAD),
                )
    else:
        number = program - num_spans - num_quarter_spans
        field, part = number // 3, number % 3
        if part == 0:
            train_gate(gate, field, slopes[0] + field * num_spans, entries[0], num_spans, num_entries, 0, SPAN)
        elif part == 1:
            train_gate(gate, field, slopes[1] + field * num_spans, entries[0], num_spans, num_entries, 1, SPAN)
        elif HAS_LEVEL_2:
            start = slopes[2] + field * num_quarter_spans
            train_gate(gate, field, start, quarters[0], num_quarter_spans, 4 * num_entries, 2, SPAN)


@triton.jit
def train_plain_kernel(
    entries,
    gradient,
    table,
    parts,
    epsilon,
    accept,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    FORMAT: tl.constexpr,
    IS_ADAGRAD: tl.constexpr,
):
    """As `train_kernel`, for one table; entries are rows, entries and marks (M,)."""
    if not tl.load(accept):
        return
    span = tl.program_id(0)
    if tl.load(entries[0] + span * (TILE * TILES)) >= 0:
        learn_span(
            *(span, entries, gradient, gradient, table, parts, entries, 1.0, epsilon),
            *(_PLAIN, DIM, COLUMNS, TILE, TILES, FORMAT, IS_ADAGRAD, 1),
        )


@triton.jit
def finish_plain_kernel(
    entries,
    table,
    parts,
    num_spans,
    epsilon,
    accept,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPAN: tl.constexpr,
    FORMAT: tl.constexpr,
    IS_ADAGRAD: tl.constexpr,
):
    """As `finish_kernel`, for one table."""
    if not tl.load(accept):
        return
    span, last = tl.program_id(0), tl.program_id(0) * SPAN + SPAN - 1
    if tl.load(entries[2] + last).to(tl.int32) & _IS_TAIL != 0:
        finish_row(
            *(span, num_spans, entries[0], table, parts, 1.0, epsilon),
            *(_PLAIN, DIM, COLUMNS, SPAN, FORMAT, IS_ADAGRAD),
        )
