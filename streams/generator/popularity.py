"""Draws the value of a field: its popularity rank, the drift of ranks by day, and the abrupt rotation.

A field's popularity ranks are 0, 1, ... The most frequent (the head) have fitted shares, drawn by Walker's alias
method; the others form a Zipf-Mandelbrot tail, density ~ (rank + shift)^-exponent, drawn by inversion. Drift changes
the value that holds a rank: at every time the map rank -> identity is a permutation, the product of two kinds of swap,

- near: a rank and its mirror image within its interval [4^j, 4^(j+1)); popularity changes by up to a factor of 4;
- far: a rank and its mirror image within the whole field; the most and the least popular values exchange ranks.

Each pair swaps at times given by a hash of the pair, so that the identities at a row depend on no other row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.hashing import GOLDEN_RATIO, mix64, mix64_array
from streams.generator.profile import FieldProfile

__all__ = [
    "FieldRecord",
    "Records",
    "draw_rank",
    "field_records",
    "identity_at",
    "is_rotated",
    "num_bits",
    "tail_shares",
    "unit",
]

Floats = npt.NDArray[np.float64]
FieldRecord = Any  # one element of `field_records`, as numba sees it
NUM_COLUMNS = 64  # of the alias tables: at most 63 head values and the tail
NEAR_SWAPS = 1.6  # near swaps of a pair for each of its far swaps
STABLE_SHARE = 0.02  # a value with a larger share of a field's lookups (a browser, a country) keeps its rank
_COLUMN_SHIFT = np.uint64(58)
_SHARE_SHIFT = np.uint64(34)
_SHARE_MASK = np.uint64((1 << 24) - 1)
_TAIL_MASK = np.uint64((1 << 34) - 1)
_UNIT_SHIFT = np.uint64(11)
# Salts of the hashes: far swaps, near swaps, and the choice of rotated tail values.
_FAR = np.uint64(0x4641520000000000)
_NEAR = np.uint64(0x4E45415200000000)
_ROTATION = np.uint64(0x434F494E00000000)


# One record per field, so that a kernel receives all parameters of a field as one pointer.
FIELD = np.dtype(
    [
        ("num_values", np.int64),
        ("num_head", np.int64),
        ("num_stable", np.int64),
        ("alias_share", np.float64, NUM_COLUMNS),
        ("alias_other", np.int64, NUM_COLUMNS),
        ("tail_power", np.float64),
        ("tail_low", np.float64),
        ("tail_span", np.float64),
        ("tail_shift", np.float64),
        ("missing", np.float64),
        ("missing_group", np.int64),
        ("turnover_per_day", np.float64),
        ("salt", np.uint64),
        ("rotates_head", np.uint8, NUM_COLUMNS),
        ("rotated_tail", np.float64),
    ],
    align=True,
)
Records = npt.NDArray[np.void]


def _tail_power(exponent: float) -> float:
    power = 1.0 - exponent
    return (
        power if abs(power) > 1e-6 else 1e-6
    )  # at exponent 1 the integral is a logarithm, which a small power approximates


def tail_shares(edges: npt.NDArray[np.int64], exponent: float, shift: float) -> Floats:
    """The shares of the tail's lookups between consecutive edges.

    Args:
        edges: (N + 1,) ranks, rising from the first rank of the tail to the cardinality.
        exponent: of the density.
        shift: of the density.

    Returns:
        (N,) float64 shares of sum 1.
    """
    heights = (edges + shift) ** _tail_power(exponent)
    return np.diff(heights) / (heights[-1] - heights[0])


def _alias_table(shares: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Walker's alias table, two (64,) arrays: column c yields c with probability `kept[c]`, and else `other[c]`."""
    scaled = np.zeros(NUM_COLUMNS)
    scaled[: len(shares)] = shares / shares.sum() * NUM_COLUMNS
    kept, other = np.ones(NUM_COLUMNS), np.arange(NUM_COLUMNS)
    small = [column for column in range(NUM_COLUMNS) if scaled[column] < 1.0]
    large = [column for column in range(NUM_COLUMNS) if scaled[column] >= 1.0]
    while small and large:
        poor, rich = small.pop(), large[-1]
        kept[poor], other[poor] = scaled[poor], rich
        scaled[rich] -= 1.0 - scaled[poor]
        if scaled[rich] < 1.0:
            small.append(large.pop())
    return kept, other


def _choose_rotated(shares: Floats, num_head: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.bool_], float]:
    """The head values, as an (F, 64) mask, and the share of tail values that together receive half of all lookups.

    Args:
        shares: (F, 64) shares of a field's lookups, first its head values', then its tail's; zeros for a field with a
            stable vocabulary. Stable fields and missing values keep their identities, so that more than half of the
            other lookups must change.
        num_head: (F,) numbers of head values.
    """
    head_shares = np.where(np.arange(shares.shape[1]) < num_head[:, None], shares, 0.0)
    tail_mass = shares.sum() - head_shares.sum()
    wanted = min(1.0, shares.shape[0] / 2 / shares.sum())
    chosen = np.zeros(shares.shape, np.bool_)
    rotated = passed = 0.0
    for index in np.argsort(-head_shares, axis=None, kind="stable")[: np.count_nonzero(head_shares)]:
        share = head_shares.flat[index]
        passed += share
        if rotated + share / 2 < wanted * passed:
            chosen.flat[index] = True
            rotated += share
    return chosen, float(np.clip((shares.shape[0] / 2 - rotated) / max(tail_mass, 1e-9), 0.0, 1.0))


def field_records(fields: Sequence[FieldProfile], scale: float, drift: float, seed: int) -> Records:
    """The fields of a profile as (F,) records for the kernels.

    Args:
        fields: the F fields.
        scale: factor on the cardinalities.
        drift: factor on the turnover.
        seed: of the tokens and of the swaps.
    """
    records = np.zeros(len(fields), FIELD)
    shares = np.zeros((len(fields), NUM_COLUMNS))
    for record, field, share in zip(records, fields, shares, strict=True):
        num_values = max(2, round(field.cardinality * scale))
        head = np.array(field.head[:num_values])
        tail = field.tail_mass if num_values > len(head) else 0.0
        columns = np.append(head, tail) / (head.sum() + tail)
        share[: len(columns)] = columns * (1 - field.missing)
        power, shift = _tail_power(field.tail_exponent), field.tail_shift
        low, high = (len(head) + shift) ** power, (num_values + shift) ** power
        record["num_values"], record["num_head"] = num_values, len(head)
        record["num_stable"] = (head > STABLE_SHARE).sum()
        record["alias_share"], record["alias_other"] = _alias_table(columns)
        record["tail_power"], record["tail_shift"] = power, shift
        record["tail_low"], record["tail_span"] = low, high - low
        record["missing"], record["missing_group"] = field.missing, field.missing_group
        record["turnover_per_day"] = drift * field.turnover_per_day
    numbers = np.arange(1, len(fields) + 1, dtype=np.uint64)
    records["salt"] = mix64_array(mix64_array(numbers) + np.uint64(seed))
    drifts = np.array([field.turnover_per_day > 0 for field in fields])
    chosen, rotated_tail = _choose_rotated(shares * drifts[:, None], records["num_head"])
    records["rotates_head"], records["rotated_tail"] = chosen, rotated_tail * drifts
    return records


@njit(nogil=True, cache=True, inline="always")
def unit(word: np.uint64) -> float:
    """A random word as a uniform number in [0, 1)."""
    return np.float64(word >> _UNIT_SHIFT) * 2.0**-53


@njit(nogil=True, cache=True)
def draw_rank(field: FieldRecord, word: np.uint64) -> int:
    """The rank for a random word: 6 bits select an alias column, 24 its value, 34 the rank in the tail."""
    column = np.int64(word >> _COLUMN_SHIFT)
    share = np.float64((word >> _SHARE_SHIFT) & _SHARE_MASK) * 2.0**-24
    rank = column if share < field.alias_share[column] else field.alias_other[column]
    if rank < field.num_head:
        return rank
    height = field.tail_low + field.tail_span * np.float64(word & _TAIL_MASK) * 2.0**-34
    rank = np.int64(height ** (1.0 / field.tail_power) - field.tail_shift)
    return min(max(rank, field.num_head), field.num_values - 1)


@njit(nogil=True, cache=True, inline="always")
def num_bits(rank: int) -> int:
    """The bit length of a rank: 0 for 0, 1 for 1, 2 for 2 and 3."""
    return math.frexp(np.float64(rank))[1]


@njit(nogil=True, cache=True)
def _is_swapped(field: FieldRecord, pair: int, salt: np.uint64, num_swaps: float) -> bool:
    """Whether a pair has swapped an odd number of times; `num_swaps` is the mean number, a hash adds the phase."""
    if pair < field.num_stable:
        return False
    return np.int64(num_swaps + unit(mix64((np.uint64(pair) ^ salt) * GOLDEN_RATIO + field.salt))) & 1 == 1


@njit(nogil=True, cache=True)
def identity_at(field: FieldRecord, rank: int, days: float) -> int:
    """The value (by its rank on day 0) that holds a rank after `days`."""
    num_swaps = field.turnover_per_day * days
    if num_swaps <= 0.0:
        return rank
    last = field.num_values - 1
    if _is_swapped(field, min(rank, last - rank), _FAR, num_swaps):
        rank = last - rank
    if rank == 0:
        return rank
    low = 1 << ((num_bits(rank) - 1) & -2)
    mirrored = low + min(low * 4 - 1, last) - rank
    return mirrored if _is_swapped(field, min(rank, mirrored), _NEAR, num_swaps * NEAR_SWAPS) else rank


@njit(nogil=True, cache=True)
def is_rotated(field: FieldRecord, identity: int) -> bool:
    """Whether a value gets a new identity at the rotation."""
    if identity < field.num_head:
        return field.rotates_head[identity] == 1
    return unit(mix64((np.uint64(identity) ^ _ROTATION) * GOLDEN_RATIO + field.salt)) < field.rotated_tail
