"""The digest of published rows: the sum, modulo 2^64, of a term for each; in any order, and in any language.

term = fold of mix64 over the words (kind << 32 | number) ^ SEED, feature key, and the body in words of 8 bytes,
       little-endian, the last one padded with zeros: h = mix64(h ^ word), from h = 0
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of the loop.

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.hashing import mix64

__all__ = ["add_modulo", "row_terms", "word_of"]

_SEED = np.uint64(0x524F575300000001)  # "ROWS", 1
_WORD = 8


def word_of(kind: str, number: int) -> int:
    """The first word of a term."""
    return ord(kind) << 32 | number


def row_terms(
    kind: str, numbers: npt.NDArray[Any], features: npt.NDArray[np.uint64], bodies: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint64]:
    """The terms (K,) of records of one kind.

    Args:
        kind: as in `RowRecord`.
        numbers: (K,) integers.
        features: (K,) the owners, 0 where there is none.
        bodies: (K, W) the records' bodies.
    """
    padded = np.zeros((len(bodies), -(-bodies.shape[1] // _WORD) * _WORD), np.uint8)
    padded[:, : bodies.shape[1]] = bodies
    terms = np.empty(len(bodies), np.uint64)
    _fold(np.asarray(numbers, np.uint64) | np.uint64(word_of(kind, 0)), features, padded.view(np.uint64), terms)
    return terms


def add_modulo(terms: npt.NDArray[np.uint64]) -> int:
    """The sum of terms, modulo 2^64."""
    return int(np.add.reduce(terms, dtype=np.uint64)) if len(terms) else 0


@njit(nogil=True, cache=True)
def _fold(firsts, features, words, terms):
    for i in range(words.shape[0]):
        term = mix64(mix64(firsts[i] ^ _SEED) ^ features[i])
        for j in range(words.shape[1]):
            term = mix64(term ^ words[i, j])
        terms[i] = term
