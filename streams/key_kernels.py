"""The loops over feature keys that every record goes through: one pass each."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.hashing import SHARD_SEED, mix64
from streams.keys import MISSING, PAYLOAD_BITS, Field, Keys

__all__ = ["count_distinct", "find_alien", "find_invalid", "find_misplaced", "group_by_shard"]

_FIELD_SHIFT = np.uint64(PAYLOAD_BITS)
_MISSING = np.uint64(MISSING)
_HALF = np.uint64(32)
_NO_KEY = np.uint64(0)
_ONE = np.uint64(1)


@lru_cache(maxsize=64)
def _is_hex(fields: tuple[Field, ...]) -> npt.NDArray[np.bool_]:
    return np.array([field.kind == "hex32" for field in fields], np.bool_)


def find_invalid(keys: Keys, fields: tuple[Field, ...]) -> str | None:
    """What is wrong with (K,) keys of any of the fields; None if nothing is."""
    return _problem(_find_invalid(keys, _is_hex(fields), 0), len(fields))


def find_misplaced(keys: Keys, fields: tuple[Field, ...]) -> str | None:
    """What is wrong with (B, F) keys, whose column f must hold field number f + 1; None if nothing is."""
    return _problem(_find_invalid(keys.reshape(-1), _is_hex(fields), len(fields)), len(fields))


def _problem(found: int, num_fields: int) -> str | None:
    if found == 0:
        return None
    if found & 1:
        return f"keys: a field number outside 1 to {num_fields}"
    if found & 2:
        return "keys: a key's field number is not its column's"
    return "keys: a payload of more than 32 bits in a field of kind hex32"


@njit(cache=True)
def _find_invalid(keys, is_hex, num_columns):  # type: ignore[no-untyped-def]
    """1: a field number that is none; 2: one that is not its column's, if there are columns; 4: too wide a payload."""
    found = 0
    num_fields = is_hex.shape[0]
    column = 0
    for i in range(keys.shape[0]):
        number = np.int64(keys[i] >> _FIELD_SHIFT)
        payload = keys[i] & _MISSING
        if number < 1 or number > num_fields:
            return 2 if num_columns != 0 else 1
        if payload >> _HALF != _NO_KEY and payload != _MISSING and is_hex[number - 1]:
            found |= 4
        if num_columns != 0:
            column += 1
            if number != column:
                found |= 2
            if column == num_columns:
                column = 0
    return found


def find_alien(keys: Keys, shard: int, num_shards: int) -> bool:
    """Whether one of the keys belongs to another shard."""
    return bool(_find_alien(keys, np.uint64(shard), np.uint64(num_shards)))


@njit(cache=True)
def _find_alien(keys, shard, num_shards):  # type: ignore[no-untyped-def]
    others = np.uint64(0)
    for i in range(keys.shape[0]):
        others |= ((mix64(keys[i] ^ SHARD_SEED) >> _HALF) * num_shards >> _HALF) ^ shard
    return others != np.uint64(0)


def count_distinct(keys: Keys) -> tuple[Keys, npt.NDArray[np.float32]]:
    """The distinct keys of (K,) keys, in the order of their first occurrence, and how often each occurs."""
    size = 1 << max(4, (2 * len(keys) - 1).bit_length())
    distinct, counts = np.empty(len(keys), np.uint64), np.zeros(len(keys), np.float32)
    number = _count_distinct(keys, np.full(size, -1, np.int32), distinct, counts)
    return distinct[:number], counts[:number]


@njit(cache=True)
def _count_distinct(keys, places, distinct, counts):  # type: ignore[no-untyped-def]
    mask = np.uint64(places.shape[0] - 1)
    number = 0
    for i in range(keys.shape[0]):
        slot = mix64(keys[i]) & mask
        while places[slot] >= 0 and distinct[places[slot]] != keys[i]:
            slot = (slot + _ONE) & mask
        place = places[slot]
        if place < 0:
            place = np.int32(number)
            places[slot] = place
            distinct[number] = keys[i]
            number += 1
        counts[place] += np.float32(1.0)
    return number


def group_by_shard(
    keys: Keys, scores: npt.NDArray[np.float32], num_shards: int
) -> tuple[Keys, npt.NDArray[np.float32], npt.NDArray[Any]]:
    """Keys and scores with those of a shard together, in their order, and (num_shards + 1,) where each shard begins."""
    grouped_keys, grouped_scores = np.empty(len(keys), np.uint64), np.empty(len(keys), np.float32)
    bounds = np.zeros(num_shards + 1, np.int64)
    _group_by_shard(keys, scores, np.empty(len(keys), np.int32), bounds, grouped_keys, grouped_scores)
    return grouped_keys, grouped_scores, bounds


@njit(cache=True)
def _group_by_shard(keys, scores, shards, bounds, grouped_keys, grouped_scores):  # type: ignore[no-untyped-def]
    num_shards = np.uint64(bounds.shape[0] - 1)
    for i in range(keys.shape[0]):
        shard = np.int32((mix64(keys[i] ^ SHARD_SEED) >> _HALF) * num_shards >> _HALF)
        shards[i] = shard
        bounds[shard + 1] += 1
    for shard in range(1, bounds.shape[0]):
        bounds[shard] += bounds[shard - 1]
    ends = bounds[:-1].copy()
    for i in range(keys.shape[0]):
        place = ends[shards[i]]
        ends[shards[i]] += 1
        grouped_keys[place] = keys[i]
        grouped_scores[place] = scores[i]
