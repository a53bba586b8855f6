"""Mutations of encoded records: flipped, cut, repeated and overwritten bytes, lengths that lie, odd numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["mutate", "mutate_headers"]

Headers = Sequence[tuple[str, bytes | None]]
_LENGTHS = [0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]
_NUMBERS = [b"-1", b"1e999", b"9" * 40, b"NaN", b"[" * 2000, b"null", b'"\\ud800"', b"{}", b"1_0", b" 7"]


def mutate(random: np.random.Generator, data: bytes) -> bytes:
    """Flips, cuts, repeats or overwrites bytes; writes lengths that lie and numbers that no decoder expects."""
    raw = bytearray(data)
    for _ in range(random.integers(1, 4)):
        start = int(random.integers(0, len(raw) + 1))
        kind = random.integers(0, 6)
        if kind == 0 and raw:
            raw[start % len(raw)] ^= 1 << int(random.integers(0, 8))
        elif kind == 1:
            del raw[start : start + int(random.integers(1, 64))]
        elif kind == 2:
            raw[start:start] = raw[start : start + int(random.integers(1, 64))]
        elif kind == 3:
            width = int(random.choice([4, 8]))
            start -= start % 4
            length = _LENGTHS[random.integers(0, len(_LENGTHS))] & ((1 << 8 * width) - 1)
            raw[start : start + width] = length.to_bytes(width, "little")
        elif kind == 4:
            raw[start : start + int(random.integers(0, 8))] = _NUMBERS[random.integers(0, len(_NUMBERS))]
        else:
            raw[start:start] = random.bytes(int(random.integers(1, 16)))
    return bytes(raw)


def mutate_headers(random: np.random.Generator, headers: Headers) -> list[tuple[str, bytes | None]]:
    """The headers, half of the time with one that is null or has mutated bytes."""
    mutated = list(headers)
    if mutated and random.integers(0, 2):
        index = int(random.integers(0, len(mutated)))
        name, value = mutated[index]
        mutated[index] = (name, None if random.integers(0, 4) == 0 else mutate(random, value or b""))
    return mutated
