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

__all__ = ["array_of", "check_codes", "check_hot_set", "integer_of", "number_of", "refusing"]

_MAX_INT64 = (1 << 63) - 1


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
    arrays: Mapping[str, npt.NDArray[Any]],
    codes: npt.NDArray[np.uint16],
    *,
    position: int,
    capacity: int,
    review_events: int,
) -> None:
    """Checks the arrays of a hot set, whose types and shapes are right already.

    Args:
        arrays: the arrays by name.
        codes: (W, S), the score codes of its sketch.
        position: the events that the sketch has counted.
        capacity: the rows of the set.
        review_events: the events between two reviews.
    """
    tiers, high, free_rows = arrays["tiers"], arrays["high"], arrays["free_rows"]
    counts, limits, moments, candidates = arrays["counts"], arrays["limits"], arrays["moments"], arrays["candidates"]
    num_buckets, num_slots = codes.shape
    _require(bool((limits >= 0).all() and (limits <= kernels.RENORMALISE_CODE).all()), "a limit is out of range")
    _require(int(limits[1]) == kernels.RENORMALISE_CODE, "the limit of hot scores is not the scale's")
    _require(bool(np.isfinite(moments).all() and (moments > 0).all()), "a moment is not a positive number")
    _require(not tiers[:, num_slots:].any(), "a slot that a bucket lacks is hot")
    hot = tiers[:, :num_slots] != 0
    _require(bool((codes[hot] != 0).all()), "an empty slot is hot")
    rows = tiers[:, :num_slots][hot].astype(np.int64) - 1
    for byte, level in enumerate(high):
        rows += (level[hot].astype(np.int64) << 8 * byte) * kernels.LOW_ROWS
    _require(bool((rows < capacity).all()), "a row is over the capacity")
    are_free = np.unpackbits(free_rows.view(np.uint8), bitorder="little")
    expected = np.zeros(len(are_free), np.uint8)
    expected[:capacity] = 1
    expected[rows] = 0
    _require(int(expected.sum()) == capacity - len(rows), "two keys have one row")
    _require(bool((are_free == expected).all()), "the free rows are not those that no key has")
    _require(int(counts[kernels.NUM_FREE]) == capacity - len(rows), "the number of free rows is wrong")
    _require(int(counts[kernels.NUM_CANDIDATES]) == len(candidates), "the number of candidates is wrong")
    _require(len(candidates) <= position % review_events, "there are more candidates than events since the review")
    _require(0 <= counts[kernels.HAND] < num_buckets, "the hand is at no bucket")
    _require(0 <= counts[kernels.LAST_ROW] < capacity, "the last row is over the capacity")
    _require(bool((counts >= 0).all()), "a count is negative")
    _require(int(counts[[kernels.HELD_HITS, kernels.HOT_HITS]].max()) <= review_events, "there are too many hits")
    buckets, slots = candidates >> 3, candidates & 7
    is_slot = (candidates >= 0) & (buckets < num_buckets) & (slots < num_slots)
    _require(bool(is_slot.all()), "a candidate is no slot")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SnapshotError(f"hot set snapshot: {otherwise}")
