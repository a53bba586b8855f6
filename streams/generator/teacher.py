"""The hidden teacher model: the click probability from which labels are drawn.

    logit = bias + slope * (sum_f w_f(value) + sum_pairs <v_a(value), v_b(value)> / 2 + sum_d c_d * log(count))

Every weight is a hash of the value's identity, so it needs no memory, and a value with a new identity has new weights.
The standard deviation of a value's weight is `value_scale * (1 + popularity rank / tail_rank)^-tail_decay`, smaller for
rare values. The latent vectors have four components. A label is a Bernoulli draw with the click probability, without
other noise. Bias and slope are calibrated on a week of pilot rows, for the rows before and after the rotation
separately, so that every seed has the configured click rate and deviation of logits: the weights of the few most
frequent values differ from seed to seed.
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

# (C2, C14), ...: fields whose values repeat often enough for a model to learn the pair's term.
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
    """The strengths of the teacher's parts; `tests/test_generator_rows.py` verifies the calibration of the defaults.

    Args:
        click_rate: mean of the labels, between 0 and 1.
        logit_scale: standard deviation of the logit over rows; the scales below only set the parts' proportions.
        value_scale: standard deviation of a popular value's weight in the field with the most values.
        field_power: a field with fewer values has (log of its number of values / log of the largest number)^field_power
            of that deviation.
        tail_rank: popularity rank, the best that drift can give a value, from which the deviation decays.
        tail_decay: power of the decay; with 0 rare values weigh as much as frequent ones.
        pair_scale: standard deviation of each pair's term.
        dense_scale: standard deviation of the sum of the dense terms.

    Raises:
        ConfigError: a value is out of its range.
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
    """The parameters of the teacher, for the kernels.

    `biases` and `slopes` are (2,), before and after the rotation; `deviations` are (F, 65) standard deviations of
    the weights, by the bit length of a value's rank.
    """

    biases: npt.NDArray[np.float64]
    slopes: npt.NDArray[np.float64]
    deviations: npt.NDArray[np.float64]
    pair_scale: float
    seed: np.uint64


def make_teacher(config: TeacherConfig, seed: int, cardinalities: npt.NDArray[np.int64]) -> Teacher:
    """A teacher that is not calibrated yet: all biases are 0 and all slopes 1.

    Args:
        config: the strengths of the parts.
        seed: of the weights.
        cardinalities: (F,) numbers of values of the fields.
    """
    ranks = np.append(0.0, 2.0 ** (np.arange(64) + 0.5))
    by_rank = (1.0 + ranks / config.tail_rank) ** -config.tail_decay
    by_field = (np.log(cardinalities) / np.log(cardinalities.max())) ** config.field_power
    deviations = config.value_scale * by_field[:, None] * by_rank
    return Teacher(np.zeros(2), np.ones(2), deviations, config.pair_scale, np.uint64(seed))


def dense_effects(config: TeacherConfig, num_dense: int) -> npt.NDArray[np.float64]:
    """(D,) float64, the change of the logit per standard deviation of each dense column's logarithm."""
    strengths = np.sqrt(1.0 / np.arange(2, num_dense + 2)) * np.resize(DENSE_SIGNS, num_dense)
    return config.dense_scale * strengths / np.linalg.norm(strengths)


@njit(nogil=True, cache=True, inline="always")
def _lane(word: np.uint64, lane: int) -> float:
    """One of the four 16-bit lanes of a random word, scaled to mean 0 and standard deviation 1."""
    return (np.float64((word >> (np.uint64(lane) * _LANE_BITS)) & _LANE) - _LANE_MIDDLE) / _LANE_DEVIATION


@njit(nogil=True, cache=True)
def value_normal(value: np.uint64, seed: np.uint64) -> float:
    """A value's weight before scaling: nearly normal (a sum of four uniforms), mean 0, standard deviation 1."""
    word = mix64(mix64(value ^ _WEIGHT) + seed)
    return (_lane(word, 0) + _lane(word, 1) + _lane(word, 2) + _lane(word, 3)) / 2.0


@njit(nogil=True, cache=True)
def pair_logit(values: npt.NDArray[np.uint64], seed: np.uint64) -> float:
    """The sum of the pairs' terms for the (F,) values of a row, before scaling: each has standard deviation 1."""
    logit = 0.0
    for pair in range(_PAIRS.shape[0]):
        salt = seed + (_LATENT | np.uint64(pair))
        left = mix64(mix64(values[_PAIRS[pair, 0]]) + salt)
        right = mix64(mix64(values[_PAIRS[pair, 1]]) + salt)
        for lane in range(4):
            logit += _lane(left, lane) * _lane(right, lane) / 2.0
    return logit
