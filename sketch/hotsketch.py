"""HotSketch: the heavy keys of a weighted stream, one cache line per bucket (CAFE, SIGMOD'24, section 3.2)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sketch import kernels
from sketch.errors import ParameterError
from sketch.hashing import GOLDEN_RATIO, Keys, mix64_array
from sketch.snapshot import Packed, pack, unpack
from sketch.snapshot_checks import array_of, check_codes, integer_of, number_of, refusing

__all__ = ["MAX_SCORE", "HotSketch"]

MAX_SCORE = float(1 << 20)
_UNITS = 8.0  # units of a score of 1 in a new sketch: sums of 1 are exact up to 511, a score of 2^-14 changes a code
_LEAST_SCALE = 2.0**-500
_MAGIC = b"hotsketch"

Scores = npt.NDArray[np.float32]
Admission = Literal["randomized", "replace_min"]


class HotSketch:
    """A set-associative table of the keys with the largest decayed sums of scores.

    - A key lives in one bucket; a bucket holds `slots_per_bucket` keys and is one cache line.
    - A newcomer to a full bucket competes with the smallest score there, `m`. With `admission="randomized"` a newcomer
      with score `s` takes that slot with probability `s / (m + s)`, and its estimate is then `m + s` (Ben-Basat et al.,
      "Randomized admission policy", INFOCOM'17); with `"replace_min"` it always takes it (Space-Saving inside a bucket,
      the rule of the CAFE paper).
    - Estimates: `replace_min` never underestimates (except for rounding) and overestimates by at most the bucket's
      smallest score. `randomized` keeps the expected sum of a bucket's estimates equal to the sum of its keys' scores;
      a single estimate errs to either side.
    - Scores are stored in 16 bits with stochastic rounding, which is unbiased and changes a score by at most 1/2048 of
      itself or 2^-14. A newcomer that is rounded to 0 gets no slot.
    - The state is a pure function of the parameters and the sequence of keys, scores and decays. It does not depend on
      how the sequence is cut into batches, nor on snapshots in between.

    Args:
        num_buckets: W, any number from 1 to 2^32 - 1.
        slots_per_bucket: S, 1 to 7.
        admission: `randomized` or `replace_min`.
        seed: 0 to 2^64 - 1; sketches with different seeds hash keys to different buckets.

    Memory: 64 bytes per bucket. Cost: O(1) per key, one cache miss.

    >>> sketch = HotSketch(64, seed=1)
    >>> sketch.insert(np.array([7, 7, 9], np.uint64), np.array([1.0, 2.0, 0.5]))
    0
    >>> sketch.query(np.array([7, 9, 8], np.uint64))
    array([3. , 0.5, 0. ], dtype=float32)
    """

    def __init__(
        self,
        num_buckets: int,
        slots_per_bucket: int = kernels.MAX_SLOTS,
        admission: Admission = "randomized",
        seed: int = 0,
    ) -> None:
        if not 1 <= num_buckets < 1 << 32:
            raise ParameterError(f"num_buckets: got {num_buckets}, expected 1 to 2^32 - 1")
        if not 1 <= slots_per_bucket <= kernels.MAX_SLOTS:
            raise ParameterError(f"slots_per_bucket: got {slots_per_bucket}, expected 1 to {kernels.MAX_SLOTS}")
        if admission not in ("randomized", "replace_min"):
            raise ParameterError(f"admission: got {admission!r}, expected 'randomized' or 'replace_min'")
        if not 0 <= seed < 1 << 64:
            raise ParameterError(f"seed: got {seed}, expected 0 to 2^64 - 1")
        self.num_buckets = num_buckets
        self.slots_per_bucket = slots_per_bucket
        self.admission: Admission = admission
        self.seed = seed
        self.position = 0
        self.num_rejected = 0
        self.scale = _UNITS
        self._memory = _aligned(num_buckets * kernels.LINE_BYTES)
        # Below 256 buckets a tag has more than 56 bits.
        self._wide = np.zeros((num_buckets if num_buckets < 256 else 0, 8), np.uint8)
        self._make_views()

    def _make_views(self) -> None:
        shape = (self.num_buckets, -1)
        first = kernels.FIRST_SCORE
        self.codes = self._memory.view(np.uint16).reshape(shape)[:, first : first + self.slots_per_bucket]
        self.table = (self._memory, self._wide, self.codes)
        # HotSet's: bit i is set while the key in slot i is hot.
        self.hot_bits = self._memory.reshape(shape)[:, kernels.LINE_BYTES - 1]
        self.mixed_seed = mix64_array(np.array([(self.seed + 1) * int(GOLDEN_RATIO) % (1 << 64)], np.uint64))[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return int(self._memory.nbytes + self._wide.nbytes)

    def insert(self, keys: Keys, scores: npt.ArrayLike = 1.0) -> int:
        """Adds scores to keys, in order; returns how many pairs were rejected.

        Rejected, and counted in `num_rejected`, are scores that are NaN, infinite, zero, negative, or over `MAX_SCORE`.

        Args:
            keys: (K,) uint64; a key that occurs n times counts n times.
            scores: (K,), or one score for all keys.

        Raises:
            ParameterError: the shapes differ.
        """
        keys, scores, rejected = self.check(keys, scores)
        self.scale = kernels.insert(*self.table, keys, scores, *self.kernel_state())
        self.position += len(keys)
        return rejected

    def check(self, keys: Keys, scores: npt.ArrayLike) -> tuple[Keys, Scores, int]:
        """The pairs with valid scores, and how many were rejected (added to `num_rejected`)."""
        keys = np.ascontiguousarray(keys, np.uint64)
        with np.errstate(over="ignore"):
            scores = np.asarray(scores, np.float32)
        scores = np.ascontiguousarray(np.broadcast_to(scores, keys.shape) if scores.ndim == 0 else scores)
        if keys.ndim != 1 or keys.shape != scores.shape:
            raise ParameterError(f"got keys {keys.shape} and scores {scores.shape}, expected both (K,)")
        rejected = len(keys) - int(kernels.count_countable(scores, np.float32(MAX_SCORE)))
        if rejected:
            good = (scores > 0) & (scores <= MAX_SCORE)
            keys, scores = keys[good], scores[good]
            self.num_rejected += rejected
        return keys, scores, rejected

    def kernel_state(self) -> tuple[Any, ...]:
        """The arguments of every inserting kernel after keys and scores."""
        always_admit = self.admission == "replace_min"
        return self.mixed_seed, np.uint64(self.position), self.scale, always_admit

    def query(self, keys: Keys) -> Scores:
        """The estimated decayed sums of the keys' scores, 0 for keys without a slot: (K,) float32."""
        keys = np.ascontiguousarray(keys, np.uint64)
        scores = np.empty(keys.shape, np.float32)
        kernels.query(*self.table, keys, self.mixed_seed, self.scale, scores)
        return scores

    def scores_of(self, codes: npt.NDArray[np.uint16]) -> Scores:
        """Decodes scores: float32 in the shape of `codes`."""
        significand = 1.0 + (codes & (1 << kernels.MANTISSA_BITS) - 1) / (1 << kernels.MANTISSA_BITS)
        units = np.ldexp(significand, (codes >> kernels.MANTISSA_BITS).astype(np.int64)) - 1.0
        return (units / self.scale).astype(np.float32)

    def top(self, k: int) -> tuple[Keys, Scores]:
        """The k keys with the largest estimates, best first (ties by slot), fewer if the sketch holds fewer."""
        codes = self.codes
        held = int(np.count_nonzero(codes))
        flat = codes.reshape(-1).astype(np.int64)
        order = np.argsort(-flat, kind="stable")[: min(k, held)]
        slots = order // self.slots_per_bucket * 8 + order % self.slots_per_bucket
        return self.keys_at(slots), self.scores_of(flat[order].astype(np.uint16))

    def keys_at(self, slots: npt.NDArray[np.int64]) -> Keys:
        """The keys in the given slots (flat indices: bucket * 8 + slot)."""
        keys = np.empty(len(slots), np.uint64)
        kernels.rebuild_keys(self._memory, self._wide, self.num_buckets, slots, self.mixed_seed, keys)
        return keys

    def decay(self, factor: float) -> None:
        """Multiplies every score by `factor` in (0, 1]. This costs one division, since later increments grow instead.

        When increments become too large for the codes, all scores are divided by 256 and rounded to the nearest code.
        That changes a score by at most 1/4096 of itself (a small one by 2^-12 of a unit) and keeps their order.

        Raises:
            ParameterError: the factor is not in (0, 1].
        """
        if not 0.0 < factor <= 1.0:
            raise ParameterError(f"decay factor: got {factor}, expected more than 0 and at most 1")
        self.scale /= factor
        while self.scale > kernels.MAX_SCALE:
            self._renormalise()

    def _renormalise(self) -> None:
        kernels.divide_scores(self.codes)
        self.scale /= 1 << kernels.RENORMALISE_OCTAVES

    def to_bytes(self) -> bytes:
        """The whole state: a sketch from `from_bytes` continues bit for bit as this one would."""
        parameters = {
            "num_buckets": self.num_buckets,
            "slots_per_bucket": self.slots_per_bucket,
            "admission": self.admission,
            "seed": self.seed,
            "position": self.position,
            "num_rejected": self.num_rejected,
            "scale": self.scale.hex(),
        }
        return pack(_MAGIC, parameters, {"lines": self._memory, "wide": self._wide})

    @classmethod
    def from_bytes(cls, data: Packed) -> HotSketch:
        """Restores a sketch from `to_bytes`.

        Raises:
            SnapshotError: the bytes are malformed or damaged.
        """
        parameters, arrays = unpack(_MAGIC, data)
        with refusing("sketch"):
            num_buckets = integer_of(parameters, "num_buckets", 1, (1 << 32) - 1)
            lines = array_of(arrays, "lines", np.uint8, (num_buckets * kernels.LINE_BYTES,))  # before it is allocated
            sketch = cls(
                num_buckets,
                integer_of(parameters, "slots_per_bucket", 1, kernels.MAX_SLOTS),
                parameters["admission"],
                integer_of(parameters, "seed", 0, (1 << 64) - 1),
            )
            sketch.position = integer_of(parameters, "position")
            sketch.num_rejected = integer_of(parameters, "num_rejected")
            sketch.scale = number_of(parameters["scale"], "scale", _LEAST_SCALE, kernels.MAX_SCALE)
            sketch._memory[:] = lines
            sketch._wide[:] = array_of(arrays, "wide", np.uint8, sketch._wide.shape)
            check_codes(sketch.codes)
        return sketch

    def keys(self) -> Keys:
        """All keys that have a slot, in the order of the slots: (K,) uint64."""
        buckets, slots = np.nonzero(self.codes)
        return self.keys_at(buckets * 8 + slots)


def _aligned(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed bytes, aligned to a cache line so that a bucket never straddles two."""
    memory = np.zeros(num_bytes + kernels.LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % kernels.LINE_BYTES
    return memory[start : start + num_bytes]
