"""Checks a snapshot's contents before a kernel reads them: kernels trust their arrays, and a checksum proves nothing.

A forged snapshot with a right checksum may hold any parameters and arrays. What is checked here is what the kernels'
memory safety and termination rest on: shapes, types and bounds, and the equalities between the arrays of a hot set.
Each function raises `SnapshotError` if they do not hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from sketch import kernels
from sketch.errors import ParameterError, SnapshotError
from sketch.tracking import (
    HAND,
    HELD_HITS,
    HOT_HITS,
    LAST_ROW,
    LOW_ROWS,
    NUM_CANDIDATES,
    NUM_FREE,
    SLOT_BITS,
    SLOT_MASK,
    State,
)

__all__ = ["array_of", "check_codes", "check_hot_set", "integer_of", "number_of", "refusing"]

_MAX_INT64 = (1 << 63) - 1
_MAX_MOMENT = 2.0**100  # 16 reviews of 4096 squares of 2^31 units are 2^78


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turns the errors that malformed contents cause into a `SnapshotError`."""
    try:
        yield
    except SnapshotError:
        raise
    except (
        ParameterError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError
    ) as error:  # fmt: skip
        raise SnapshotError(f"{what} snapshot: malformed contents ({type(error).__name__}: {error})") from error


def integer_of(parameters: Mapping[str, Any], name: str, least: int = 0, most: int = _MAX_INT64) -> int:
    """The parameter, an integer from `least` to `most`."""
    value = parameters[name]
    if type(value) is not int or not least <= value <= most:
        raise SnapshotError(f"snapshot: {name} is {str(value)[:50]}, expected an integer from {least} to {most}")
    return value


def number_of(text: object, name: str, least: float, most: float) -> float:
    """The number in hexadecimal, from `least` to `most`."""
    number = float.fromhex(text) if isinstance(text, str) else math.nan
    if not least <= number <= most:
        raise SnapshotError(f"snapshot: {name} is {str(text)[:50]}, expected a number from {least} to {most}")
    return number


def array_of(
    arrays: Mapping[str, npt.NDArray[Any]], name: str, dtype: type[np.generic], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """The array of this type and shape."""
    array = arrays[name]
    if array.dtype != dtype or array.shape != shape:
        raise SnapshotError(
            f"snapshot: array {name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}"
        )
    return array


def check_codes(codes: npt.NDArray[np.uint16]) -> None:
    """Checks the (W, S) score codes: an insertion may add to each without leaving the range of codes."""
    _require(not codes.size or int(codes.max()) < kernels.RENORMALISE_CODE, "a score is out of range")


def check_hot_set(
    state: State,
    codes: npt.NDArray[np.uint16],
    hot_bits: npt.NDArray[np.uint8],
    *,
    num_events: int,
    capacity: int,
) -> None:
    """Checks the arrays of a hot set, whose types and shapes are right already.

    Args:
        state: the arrays; of the candidates, those listed.
        codes: (W, S), the score codes of its sketch.
        hot_bits: (W,), a bit for each slot: whether its key is hot.
        num_events: the events that the sketch has counted since the last review.
        capacity: the rows of the set.
    """
    _require(int(hot_bits.max()) >> codes.shape[1] == 0, "a slot that a bucket lacks is hot")
    are_hot = np.unpackbits(hot_bits[:, None], axis=1, count=codes.shape[1], bitorder="little").astype(np.bool_)
    _require(bool((codes[are_hot] != 0).all()), "an empty slot is hot")
    _check_rows(state, are_hot, capacity)
    _check_counts(state.counts, num_events, num_buckets=len(codes), capacity=capacity)
    _check_candidates(state, codes, num_events)
    _check_numbers(state)


def _check_rows(state: State, are_hot: npt.NDArray[np.bool_], capacity: int) -> None:
    """Checks the rows of the hot slots, and that the other rows are free: a search for a free one ends only then."""
    rows = state.low[are_hot].astype(np.int64)
    for byte, level in enumerate(state.high):
        rows += (level[are_hot].astype(np.int64) << 8 * byte) * LOW_ROWS
    _require(bool((rows < capacity).all()), "a row is over the capacity")
    are_free = np.unpackbits(state.free_rows.view(np.uint8), bitorder="little")
    expected = np.zeros(len(are_free), np.uint8)
    expected[:capacity] = 1
    expected[rows] = 0
    _require(int(expected.sum()) == capacity - len(rows), "two keys have one row")
    _require(bool((are_free == expected).all()), "the free rows are not those that no key has")
    _require(int(state.counts[NUM_FREE]) == capacity - len(rows), "the number of free rows is wrong")


def _check_counts(counts: npt.NDArray[np.int64], num_events: int, *, num_buckets: int, capacity: int) -> None:
    _require(0 <= counts[HAND] < num_buckets, "the hand is at no bucket")
    _require(0 <= counts[LAST_ROW] < capacity, "the last row is over the capacity")
    _require(0 <= counts[HOT_HITS] <= counts[HELD_HITS] <= num_events, "the hits are more than the events")


def _check_candidates(state: State, codes: npt.NDArray[np.uint16], num_events: int) -> None:
    """Checks that each candidate is a slot with a key; an event lists at most one, which bounds their list."""
    candidates, (num_buckets, num_slots) = state.candidates, codes.shape
    _require(int(state.counts[NUM_CANDIDATES]) == len(candidates), "the number of candidates is wrong")
    _require(len(candidates) <= num_events, "there are more candidates than events since the review")
    indices = SLOT_MASK - (candidates & SLOT_MASK)
    buckets, slots = indices >> 3, indices & 7
    are_slots = (candidates >= 0) & (buckets < num_buckets) & (slots < num_slots)
    _require(bool(are_slots.all()), "a candidate is no slot")
    listed = candidates >> SLOT_BITS
    _require(bool(((listed > 0) & (listed <= codes[buckets, slots])).all()), "a candidate has a score it never had")


def _check_numbers(state: State) -> None:
    limits, moments, drift = state.limits, state.moments, state.drift
    _require(bool(((limits > 0) & (limits <= kernels.RENORMALISE_CODE)).all()), "a limit is out of range")
    _require(bool(((moments >= 0) & (moments <= _MAX_MOMENT)).all()), "a moment is out of range")
    _require(bool(moments[0] > 0), "the sum of the increments is not a positive number")  # it is a divisor
    _require(bool(((drift >= 0) & (drift <= 1)).all()), "an average of shares is no share")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SnapshotError(f"hot set snapshot: {otherwise}")
