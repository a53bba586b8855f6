"""Triton functions of words: hashes, bfloat16 bits and the random bits of stochastic rounding."""

from __future__ import annotations

import triton
import triton.language as tl

from trainer.embedding.stores.lanes import NOISE_CONSTANTS

__all__ = ["hash_below", "mix64", "noise_bits", "round_bfloat16", "widen_bfloat16"]

_MULTIPLIER_1 = tl.constexpr(0xFF51AFD7ED558CCD)  # of `sketch.hashing.mix64`
_MULTIPLIER_2 = tl.constexpr(0xC4CEB9FE1A85EC53)
_STEP, _FACTOR_1, _FACTOR_2 = (tl.constexpr(word) for word in NOISE_CONSTANTS)


@triton.jit
def mix64(words):
    """`sketch.hashing.mix64` of uint64 words."""
    words = words ^ (words >> 33)
    words = words * _MULTIPLIER_1
    words = words ^ (words >> 33)
    words = words * _MULTIPLIER_2
    return words ^ (words >> 33)


@triton.jit
def hash_below(half, count):
    """Maps 32 bits, in uint64, to an int32 below `count`, an int32."""
    return ((half * count) >> 32).to(tl.int32)


@triton.jit
def widen_bfloat16(bits):
    """A bfloat16, given as int16, as float32."""
    return (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def round_bfloat16(values):
    """A float32 of at least 0 as the bits of the nearest bfloat16, int16; ties to even."""
    bits = values.to(tl.int32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.int16)


@triton.jit
def noise_bits(rows, columns, word):
    """16 random bits, int32, for each of rows (X,) and columns (D,): `stores.noise.Noise.bits`.

    Args:
        rows: (X,) int64, with the number of the rows in the preceding stores added.
        columns: (D,) int32.
        word: int64, `Noise.word`.
    """
    salts = mix64((rows ^ word).to(tl.uint64, bitcast=True)).to(tl.uint32)  # (X,)
    words = (((columns >> 4) << 3) | (columns & 7)).to(tl.uint32) * _STEP  # (D,), each word serves two columns
    bits = salts[:, None] + words[None, :]
    bits = (bits ^ (bits >> 16)) * _FACTOR_1
    bits = (bits ^ (bits >> 15)) * _FACTOR_2
    shifts = ((columns & 8) << 1).to(tl.uint32)
    return ((bits >> shifts[None, :]) & 0xFFFF).to(tl.int32)
