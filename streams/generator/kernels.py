"""The kernel that draws rows. Each random word is a hash of (seed, row, stream), so any row can be drawn by itself."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.hashing import GOLDEN_RATIO, mix64
from streams.generator.counts import draw_log
from streams.generator.popularity import draw_rank, identity_at, is_rotated, num_bits, unit
from streams.generator.teacher import Teacher, pair_logit, value_normal
from streams.keys import FIELD_SHIFT, MISSING_WORD

__all__ = ["LogModel", "draw_rows", "token_of"]

_TOKEN_1 = np.uint64(0x85EBCA6B)
_TOKEN_2 = np.uint64(0xC2B2AE35)
_TOKEN_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(16)
_THIRTEEN = np.uint64(13)
# The random streams of a row: 0 to 62 for the missing groups, 63 for the label, from 64 on for the values.
_LABEL = 63
_VALUES = 64


class LogModel(NamedTuple):
    """The parameters of a log, for the kernels.

    `fields` are (F,) and `columns` (D,) records; `rotate_at` is a row number.
    """

    fields: npt.NDArray[np.void]
    columns: npt.NDArray[np.void]
    teacher: Teacher
    seed: np.uint64
    rows_per_day: float
    rotate_at: int


@njit(nogil=True, cache=True, inline="always")
def _word(row_word: np.uint64, stream: int) -> np.uint64:
    return mix64(row_word + np.uint64(stream) * GOLDEN_RATIO)


@njit(nogil=True, cache=True)
def token_of(value: np.uint64, salt: np.uint64) -> np.uint64:
    """A bijection of 32-bit words (MurmurHash3's finalizer), so that two values of a field never share a token."""
    word = (value ^ salt) & _TOKEN_MASK
    word ^= word >> _HALF
    word = (word * _TOKEN_1) & _TOKEN_MASK
    word ^= word >> _THIRTEEN
    word = (word * _TOKEN_2) & _TOKEN_MASK
    return word ^ (word >> _HALF)


@njit(nogil=True, cache=True)
def _draw_dense(columns: npt.NDArray[np.void], row_word: np.uint64, dense: npt.NDArray[np.float32]) -> float:
    """Fills in one row's counts, NaN where missing; returns their part of the logit."""
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
    model: LogModel,
    first_row: int,
    label: npt.NDArray[np.int8],
    probability: npt.NDArray[np.float32],
    dense: npt.NDArray[np.float32],
    payloads: npt.NDArray[np.uint64],
) -> None:
    """Fills a block: (B,) labels and probabilities, (B, D) counts, (B, F) payloads."""
    fields, columns, teacher = model.fields, model.columns, model.teacher
    values = np.empty(payloads.shape[1], np.uint64)
    first_stream = _VALUES + dense.shape[1]
    for i in range(label.shape[0]):
        row = first_row + i
        days, has_rotated = row / model.rows_per_day, row >= model.rotate_at
        row_word = mix64(mix64(model.seed) ^ (np.uint64(row) * GOLDEN_RATIO))
        logit = _draw_dense(columns, row_word, dense[i])
        for number in range(payloads.shape[1]):
            field = fields[number]
            is_missing = unit(_word(row_word, field.missing_group)) < field.missing
            identity, value = 0, _TOKEN_MASK
            if not is_missing:
                rank = draw_rank(field, _word(row_word, first_stream + number))
                identity = identity_at(field, rank, days)
                is_new = has_rotated and is_rotated(field, identity)
                value = np.uint64(identity + field.num_values if is_new else identity)
            payloads[i, number] = MISSING_WORD if is_missing else token_of(value, field.salt)
            values[number] = (np.uint64(number + 1) << FIELD_SHIFT) | value
            # Both values of a far swap have the same scale of weights, so that drift hardly changes the logits' spread.
            best_rank = min(identity, field.num_values - 1 - identity)
            logit += teacher.deviations[number, num_bits(best_rank)] * value_normal(values[number], teacher.seed)
        logit += teacher.pair_scale * pair_logit(values, teacher.seed)
        logit = teacher.biases[np.int64(has_rotated)] + teacher.slopes[np.int64(has_rotated)] * logit
        probability[i] = 1.0 / (1.0 + math.exp(-logit))
        label[i] = unit(_word(row_word, _LABEL)) < probability[i]
