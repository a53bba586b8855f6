"""The kernel that draws rows: every number is a hash of (seed, row, column), so any range of rows stands alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.hashing import mix64
from streams.generator.counts import draw_log
from streams.generator.popularity import draw_rank, identity_at, is_rotated, num_bits, unit
from streams.generator.teacher import Teacher, pair_logit, value_normal

__all__ = ["World", "draw_rows", "token_of"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MISSING = np.uint64((1 << 56) - 1)
_FIELD_BITS = np.uint64(56)
_TOKEN_1 = np.uint64(0x85EBCA6B)
_TOKEN_2 = np.uint64(0xC2B2AE35)
_TOKEN_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(16)
_THIRTEEN = np.uint64(13)
# The columns' places in a row's stream of random words: missing groups 0.., values 64.., the label 63.
_LABEL = 63
_VALUES = 64


class World(NamedTuple):
    """All that the kernels need to know: (F,) and (D,) records, the teacher, and the clock."""

    fields: npt.NDArray[np.void]
    columns: npt.NDArray[np.void]
    teacher: Teacher
    seed: np.uint64
    rows_per_day: float
    rotate_at: int


@njit(nogil=True, cache=True, inline="always")
def _word(row_word: np.uint64, place: int) -> np.uint64:
    return mix64(row_word + np.uint64(place) * _GOLDEN)


@njit(nogil=True, cache=True)
def token_of(value: np.uint64, salt: np.uint64) -> np.uint64:
    """An invertible map of 32-bit words (MurmurHash3's finalizer): no two values of a field share a token."""
    word = (value ^ salt) & _TOKEN_MASK
    word ^= word >> _HALF
    word = (word * _TOKEN_1) & _TOKEN_MASK
    word ^= word >> _THIRTEEN
    word = (word * _TOKEN_2) & _TOKEN_MASK
    return word ^ (word >> _HALF)


@njit(nogil=True, cache=True)
def _draw_dense(columns: npt.NDArray[np.void], row_word: np.uint64, dense: npt.NDArray[np.float32]) -> float:
    """Fills one row's counts, NaN where missing; what they add to the logit."""
    logit = 0.0
    for number in range(dense.shape[0]):
        column = columns[number]
        if unit(_word(row_word, column.missing_group)) < column.missing:
            dense[number] = np.nan
            continue
        log = draw_log(column, unit(_word(row_word, _VALUES + number)))
        dense[number] = math.floor(math.exp(log) - column.offset + 0.5)
        logit += column.slope * (log - column.log_mean)
    return logit


@njit(nogil=True, cache=True)
def draw_rows(
    world: World,
    first_row: int,
    label: npt.NDArray[np.int8],
    probability: npt.NDArray[np.float32],
    dense: npt.NDArray[np.float32],
    payloads: npt.NDArray[np.uint64],
) -> None:
    """Fills a block: (B,) labels and probabilities, (B, D) counts, (B, F) payloads."""
    fields, columns, teacher = world.fields, world.columns, world.teacher
    values = np.empty(payloads.shape[1], np.uint64)
    first_place = _VALUES + dense.shape[1]
    for place in range(label.shape[0]):
        row = first_row + place
        days, has_rotated = row / world.rows_per_day, row >= world.rotate_at
        row_word = mix64(mix64(world.seed) ^ (np.uint64(row) * _GOLDEN))
        logit = _draw_dense(columns, row_word, dense[place])
        for number in range(payloads.shape[1]):
            field = fields[number]
            is_missing = unit(_word(row_word, field.missing_group)) < field.missing
            identity, value = 0, _TOKEN_MASK
            if not is_missing:
                rank = draw_rank(field, _word(row_word, first_place + number))
                identity = identity_at(field, rank, days)
                is_new = has_rotated and is_rotated(field, identity)
                value = np.uint64(identity + field.num_values if is_new else identity)
            payloads[place, number] = _MISSING if is_missing else token_of(value, field.salt)
            values[number] = (np.uint64(number + 1) << _FIELD_BITS) | value
            # Both values of a pair that trades places weigh alike, so that drift hardly wears the teacher out.
            weighty = min(identity, field.num_values - 1 - identity)
            logit += teacher.deviations[number, num_bits(weighty)] * value_normal(values[number], teacher.seed)
        logit += teacher.pair_scale * pair_logit(values, teacher.seed)
        logit = teacher.biases[np.int64(has_rotated)] + teacher.slopes[np.int64(has_rotated)] * logit
        probability[place] = 1.0 / (1.0 + math.exp(-logit))
        label[place] = unit(_word(row_word, _LABEL)) < probability[place]
