"""A Triton function that trains a gate: it adds up the slopes of all spans in a fixed order."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["train_gate"]

_BLOCK = tl.constexpr(1024)


@triton.jit
def train_gate(gate, field, slopes, rows, num_spans, num_entries, PART: tl.constexpr, SPAN: tl.constexpr):
    """One Adagrad step on a gate, as `Gate.learn`.

    Args:
        gate: the gates (F, 3) and their sums (F, 3), float32; the least of unique rows, the least of the others, the
            most of all; learning rate and epsilon.
        field: of the gate.
        slopes: (spans,) float32, the slopes of the gate; those of spans without a row of its table are not read.
        rows: (M,) int32, as `mark_kernel` fills them.
        num_entries: of which there are so many.
        PART: the kind of the gate's table.
    """
    values, state, least_unique, least_shared, most, rate, epsilon = gate
    total = tl.zeros((_BLOCK,), tl.float32)
    for start in range(0, num_spans, _BLOCK):
        spans = start + tl.arange(0, _BLOCK)
        is_there = spans * SPAN < num_entries
        # Rows of level 1 are negative and stand first; quarters of hot keys have no row and stand last.
        probe = tl.minimum(spans * SPAN + SPAN, num_entries) - 1 if PART == 0 else spans * SPAN
        known = tl.load(rows + probe, is_there, -1)
        is_live = known < -1 if PART == 1 else known >= 0
        total += tl.load(slopes + spans, is_live, 0.0)
    slope, at = tl.sum(total), field * 3 + PART
    sum_of_squares = tl.load(state + at) + slope * slope
    tl.store(state + at, sum_of_squares)
    after = tl.load(values + at) - tl.div_rn(rate * slope, tl.sqrt_rn(sum_of_squares) + epsilon)
    tl.store(values + at, tl.minimum(tl.maximum(after, least_unique if PART == 0 else least_shared), most))
