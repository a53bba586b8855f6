"""Which value a field takes: popularity, its drift by day, and the abrupt rotation.

A field's values are ranks 0, 1, ... by popularity. The commonest have fitted shares (drawn by Walker's alias method);
the rest is one Zipf-Mandelbrot tail, density ~ (rank + shift)^-exponent, drawn through its inverse. *Which* value holds
a rank moves with time: the map rank -> identity is a permutation at every moment, built of two kinds of trade,

- a rank with the one mirrored within its block [4^j, 4^(j+1)): popularity moves by up to a factor of 4;
- a rank with the one mirrored within the whole field: the popular becomes all but unseen and the reverse,

each made at a moment of its own that is a hash of the pair. So a row needs none of those before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.hashing import mix64, mix64_array
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
NEIGHBOUR_TRADES = 1.6  # of a block's pairs, for every pair that turns over
STABLE_SHARE = 0.02  # of a field's lookups: a value above it (a browser, a country) keeps its place
_ODD = np.uint64(0x9E3779B97F4A7C15)
_COLUMN_SHIFT = np.uint64(58)
_SHARE_SHIFT = np.uint64(34)
_SHARE_MASK = np.uint64((1 << 24) - 1)
_TAIL_MASK = np.uint64((1 << 34) - 1)
_UNIT_SHIFT = np.uint64(11)
_FAR = np.uint64(0x4641520000000000)
_NEAR = np.uint64(0x4E45415200000000)
_COIN = np.uint64(0x434F494E00000000)


# One record per field: a kernel that is handed a record is handed one pointer.
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
    return power if abs(power) > 1e-6 else 1e-6  # at exponent 1 the integral is a logarithm; this is as near


def tail_shares(edges: npt.NDArray[np.int64], exponent: float, shift: float) -> Floats:
    """The share of the tail's lookups that falls between consecutive edges (ranks): one less than `edges`."""
    heights = (edges + shift) ** _tail_power(exponent)
    return np.diff(heights) / (heights[-1] - heights[0])


def _alias_table(shares: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Walker's alias table: column c yields c with probability `kept[c]`, else `other[c]`; both (64,)."""
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
    """Head values (F, 64) and the share of tail values that together take half of all lookups.

    Args:
        shares: (F, 64) of a field's lookups: its head values', then its tail's; zeros where a field's vocabulary is
            stable. Those, and missing values, keep their identities, so of the others well over half must change.
        num_head: (F,) head values.
    """
    head_shares = np.where(np.arange(shares.shape[1]) < num_head[:, None], shares, 0.0)
    tail_mass = shares.sum() - head_shares.sum()
    wanted = min(1.0, shares.shape[0] / 2 / shares.sum())
    chosen = np.zeros(shares.shape, np.bool_)
    rotated = passed = 0.0
    for place in np.argsort(-head_shares, axis=None, kind="stable")[: np.count_nonzero(head_shares)]:
        share = head_shares.flat[place]
        passed += share
        if rotated + share / 2 < wanted * passed:
            chosen.flat[place] = True
            rotated += share
    return chosen, float(np.clip((shares.shape[0] / 2 - rotated) / max(tail_mass, 1e-9), 0.0, 1.0))


def field_records(fields: Sequence[FieldProfile], scale: float, drift: float, seed: int) -> Records:
    """A profile's fields as (F,) records; cardinalities are multiplied by `scale`, their drift by `drift`."""
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
    is_open = np.array([field.turnover_per_day > 0 for field in fields])
    chosen, rotated_tail = _choose_rotated(shares * is_open[:, None], records["num_head"])
    records["rotates_head"], records["rotated_tail"] = chosen, rotated_tail * is_open
    return records


@njit(nogil=True, cache=True, inline="always")
def unit(word: np.uint64) -> float:
    """The word as a number in [0, 1)."""
    return np.float64(word >> _UNIT_SHIFT) * 2.0**-53


@njit(nogil=True, cache=True)
def draw_rank(field: FieldRecord, word: np.uint64) -> int:
    """The rank that a random word stands for: 6 bits pick a column, 24 its value, 34 the place in the tail."""
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
    """The bits that a rank needs: 0 for 0, 1 for 1, 2 for 2 and 3."""
    return math.frexp(np.float64(rank))[1]


@njit(nogil=True, cache=True)
def _has_traded(field: FieldRecord, pair: int, kind: np.uint64, trades: float) -> bool:
    """Whether a pair that trades `trades` times in all, first at a hashed moment, stands traded now."""
    if pair < field.num_stable:
        return False
    return np.int64(trades + unit(mix64((np.uint64(pair) ^ kind) * _ODD + field.salt))) & 1 == 1


@njit(nogil=True, cache=True)
def identity_at(field: FieldRecord, rank: int, days: float) -> int:
    """Which value (its rank on day 0) holds a rank after `days`."""
    trades = field.turnover_per_day * days
    if trades <= 0.0:
        return rank
    last = field.num_values - 1
    if _has_traded(field, min(rank, last - rank), _FAR, trades):
        rank = last - rank
    if rank == 0:
        return rank
    low = 1 << ((num_bits(rank) - 1) & -2)
    mirrored = low + min(low * 4 - 1, last) - rank
    return mirrored if _has_traded(field, min(rank, mirrored), _NEAR, trades * NEIGHBOUR_TRADES) else rank


@njit(nogil=True, cache=True)
def is_rotated(field: FieldRecord, identity: int) -> bool:
    """Whether a value is one of those that get a new identity at the rotation."""
    if identity < field.num_head:
        return field.rotates_head[identity] == 1
    return unit(mix64((np.uint64(identity) ^ _COIN) * _ODD + field.salt)) < field.rotated_tail
