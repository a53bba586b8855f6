"""The hidden teacher: the click probability that the labels are drawn from.

    logit = bias + slope * (sum_f w_f(value) + sum_pairs <v_a(value), v_b(value)> / 2 + sum_d c_d * log(count))

Every weight is a hash of the value's identity, so it needs no memory and a value that gets a new identity gets new
weights. A value's weight has the deviation `value_scale * (1 + popularity rank / tail_rank)^-tail_decay`: rare
values are more like each other than common ones. Each pair's latent vectors have four components.
The label is a coin with that probability; there is no further noise. Bias
and slope are set on a week of pilot rows so that the click rate and the logit's deviation are what is asked, before the
rotation and after it, for every seed: which few values are the commonest and how they weigh is luck.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.hashing import mix64
from streams.errors import ConfigError

__all__ = ["Teacher", "TeacherConfig", "dense_effects", "make_teacher", "pair_logit", "value_normal"]

# C2 x C14 and so on: fields whose values return often enough for a pair to be learned.
_PAIRS = np.array([(2, 14), (5, 13), (6, 17), (8, 23), (9, 18), (11, 25)]) - 1
DENSE_SIGNS = (1, 1, 1, -1, -1, -1, 1, 1, -1, 1, 1, 1, -1)
_LANE = np.uint64(0xFFFF)
_LANE_BITS = np.uint64(16)
_LANE_MIDDLE = 32767.5
_LANE_DEVIATION = 18918.61  # of a uniform 16-bit number
_WEIGHT = np.uint64(0x5745494700)
_LATENT = np.uint64(0x4C41544500)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """How strong each part of the teacher is; the defaults are calibrated (`tests/test_generator.py` holds them).

    Args:
        click_rate: mean of the labels.
        logit_scale: deviation of the logit over rows; the scales below say only how it is shared out.
        value_scale: deviation of a popular value's weight in the field with the most values.
        field_power: in another field it is less by (log of its values / log of the most values) to this power.
        tail_rank: popularity rank (in the best place that drift may give the value) from which weights get smaller.
        tail_decay: power by which they do; 0: rare values matter like common ones.
        pair_scale: deviation of each latent pair's term.
        dense_scale: deviation of all dense terms together.
    """

    click_rate: float = 0.256
    logit_scale: float = 1.55
    value_scale: float = 0.88
    field_power: float = 2.0
    tail_rank: float = 20.0
    tail_decay: float = 0.3
    pair_scale: float = 0.2
    dense_scale: float = 1.15

    def __post_init__(self) -> None:
        if not 0 < self.click_rate < 1:
            raise ConfigError(f"teacher click_rate: got {self.click_rate}, expected a number between 0 and 1")
        for name in [field.name for field in fields(self) if field.name not in ("click_rate", "tail_rank")]:
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"teacher {name}: got {getattr(self, name)}, expected a number of at least 0")
        if not 0 < self.tail_rank < math.inf:
            raise ConfigError(f"teacher tail_rank: got {self.tail_rank}, expected a number above 0")


class Teacher(NamedTuple):
    """What the kernels know of the teacher.

    `biases` and `slopes` (2,) hold before and after the rotation; `deviations` (F, 65) are the weights', by the bits
    of a value's rank.
    """

    biases: npt.NDArray[np.float64]
    slopes: npt.NDArray[np.float64]
    deviations: npt.NDArray[np.float64]
    pair_scale: float
    seed: np.uint64


def make_teacher(config: TeacherConfig, seed: int, cardinalities: npt.NDArray[np.int64]) -> Teacher:
    """A teacher of fields with so many values (F,), which is not calibrated yet."""
    ranks = np.append(0.0, 2.0 ** (np.arange(64) + 0.5))
    by_rank = (1.0 + ranks / config.tail_rank) ** -config.tail_decay
    by_field = (np.log(cardinalities) / np.log(cardinalities.max())) ** config.field_power
    deviations = config.value_scale * by_field[:, None] * by_rank
    return Teacher(np.zeros(2), np.ones(2), deviations, config.pair_scale, np.uint64(seed))


def dense_effects(config: TeacherConfig, num_dense: int) -> npt.NDArray[np.float64]:
    """What one deviation of each dense column adds to the logit, (D,): falling strengths, fixed signs."""
    strengths = np.sqrt(1.0 / np.arange(2, num_dense + 2)) * np.resize(DENSE_SIGNS, num_dense)
    return config.dense_scale * strengths / np.linalg.norm(strengths)


@njit(nogil=True, cache=True, inline="always")
def _lane(word: np.uint64, lane: int) -> float:
    """One of the word's four 16-bit lanes, as a number of mean 0 and deviation 1."""
    return (np.float64((word >> (np.uint64(lane) * _LANE_BITS)) & _LANE) - _LANE_MIDDLE) / _LANE_DEVIATION


@njit(nogil=True, cache=True)
def value_normal(value: np.uint64, seed: np.uint64) -> float:
    """A value's weight before scaling: near normal (a sum of four uniform numbers), mean 0, deviation 1."""
    word = mix64(mix64(value ^ _WEIGHT) + seed)
    return (_lane(word, 0) + _lane(word, 1) + _lane(word, 2) + _lane(word, 3)) / 2.0


@njit(nogil=True, cache=True)
def pair_logit(values: npt.NDArray[np.uint64], seed: np.uint64) -> float:
    """The sum of the latent pairs' terms for one row's values (F,), before scaling: each of deviation 1."""
    logit = 0.0
    for pair in range(_PAIRS.shape[0]):
        salt = seed + (_LATENT | np.uint64(pair))
        left = mix64(mix64(values[_PAIRS[pair, 0]]) + salt)
        right = mix64(mix64(values[_PAIRS[pair, 1]]) + salt)
        for lane in range(4):
            logit += _lane(left, lane) * _lane(right, lane) / 2.0
    return logit
