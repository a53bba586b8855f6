"""The kernel that trains the gates: it adds up their slopes in a fixed order."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["gate_kernel"]


@triton.jit(do_not_specialize=["num_unique", "num_first", "num_second"])
def gate_kernel(
    values,
    state,
    unique_slopes,
    first_slopes,
    second_slopes,
    num_unique,
    num_first,
    num_second,
    least_unique,
    least_shared,
    most,
    rate,
    epsilon,
    BLOCK: tl.constexpr,
):
    """One Adagrad step on the gate of one field (first axis of the grid) and part (second axis), as `Gate.learn`.

    Args:
        values: (F, 3) float32, the gates, with their sums `state` (F, 3).
        unique_slopes: (F, P) float32, the slopes of unique rows by field and program of `segment_kernel`; likewise
            those of level 1 and level 2.
        num_unique: P, likewise of the others.
        least_unique: the least gate of unique rows; `least_shared` that of both levels, `most` the most of all.
    """
    field, part = tl.program_id(0), tl.program_id(1)
    slopes, count, least = unique_slopes, num_unique, least_unique
    if part == 1:
        slopes, count, least = first_slopes, num_first, least_shared
    if part == 2:
        slopes, count, least = second_slopes, num_second, least_shared
    total, numbers = tl.zeros((BLOCK,), tl.float32), tl.arange(0, BLOCK)
    for start in range(0, count, BLOCK):
        total += tl.load(slopes + field * count + start + numbers, start + numbers < count, 0.0)
    slope, at = tl.sum(total), field * 3 + part
    sum_of_squares = tl.load(state + at) + slope * slope
    tl.store(state + at, sum_of_squares)
    gate = tl.load(values + at) - tl.div_rn(rate * slope, tl.sqrt_rn(sum_of_squares) + epsilon)
    tl.store(values + at, tl.minimum(tl.maximum(gate, least), most))
