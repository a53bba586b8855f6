"""What every record's keys must be, checked in one pass: fields of the log, in their columns, of this shard."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.hashing import SHARD_SEED, mix64
from streams.keys import MISSING, PAYLOAD_BITS, Field, Keys

__all__ = ["find_alien", "find_invalid", "find_misplaced"]

_FIELD_SHIFT = np.uint64(PAYLOAD_BITS)
_MISSING = np.uint64(MISSING)
_HALF = np.uint64(32)
_NO_KEY = np.uint64(0)


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
