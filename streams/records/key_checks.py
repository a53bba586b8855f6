"""Checks of a record's keys, each in one pass: known fields, in their own columns, all of one shard."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.hashing import SHARD_SEED, mix64
from streams.keys import FIELD_SHIFT, MISSING_WORD, Field, Keys

__all__ = ["find_invalid", "find_misplaced", "has_foreign_key"]

_HALF = np.uint64(32)
_NO_KEY = np.uint64(0)


@lru_cache(maxsize=64)
def _is_hex(fields: tuple[Field, ...]) -> npt.NDArray[np.bool_]:
    return np.array([field.kind == "hex32" for field in fields], np.bool_)


def find_invalid(keys: Keys, fields: tuple[Field, ...]) -> str | None:
    """The reason why (K,) keys are invalid, each of which may be of any field; None if all are valid."""
    return _problem(_find_invalid(keys, _is_hex(fields), 0), len(fields))


def find_misplaced(keys: Keys, fields: tuple[Field, ...]) -> str | None:
    """The reason why (B, F) keys are invalid, whose column f must hold field number f + 1; None if all are valid."""
    return _problem(_find_invalid(keys.reshape(-1), _is_hex(fields), len(fields)), len(fields))


def _problem(found: int, num_fields: int) -> str | None:
    if found == 0:
        return None
    if found & 1:
        return f"keys: got a field number outside 1 to {num_fields}"
    if found & 2:
        return "keys: got a key of another field than its column's, expected field number f + 1 in column f"
    return "keys: got a payload of more than 32 bits in a field of kind hex32, expected 8 hex digits or a missing value"


@njit(cache=True)
def _find_invalid(keys, is_hex, num_columns):  # type: ignore[no-untyped-def]
    """Bits: 1, a field number out of range; 2, a key in a wrong column (if any); 4, too wide a payload."""
    found = 0
    num_fields = is_hex.shape[0]
    column = 0
    for i in range(keys.shape[0]):
        number = np.int64(keys[i] >> FIELD_SHIFT)
        payload = keys[i] & MISSING_WORD
        if number < 1 or number > num_fields:
            return 2 if num_columns != 0 else 1
        if payload >> _HALF != _NO_KEY and payload != MISSING_WORD and is_hex[number - 1]:
            found |= 4
        if num_columns != 0:
            column += 1
            if number != column:
                found |= 2
            if column == num_columns:
                column = 0
    return found


def has_foreign_key(keys: Keys, shard: int, num_shards: int) -> bool:
    """Whether any of the keys belongs to another shard."""
    return bool(_has_foreign_key(keys, np.uint64(shard), np.uint64(num_shards)))


@njit(cache=True)
def _has_foreign_key(keys, shard, num_shards):  # type: ignore[no-untyped-def]
    others = np.uint64(0)
    for i in range(keys.shape[0]):
        others |= ((mix64(keys[i] ^ SHARD_SEED) >> _HALF) * num_shards >> _HALF) ^ shard
    return others != np.uint64(0)
