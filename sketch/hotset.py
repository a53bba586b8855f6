"""HotSet: the top keys of a sketch, each with a stable row, and the changes to that set."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from sketch import kernels
from sketch.changes import Changes
from sketch.drift import NUM_AVERAGES
from sketch.errors import ParameterError
from sketch.hashing import Keys
from sketch.hotsketch import HotSketch
from sketch.review import Rules, review_early, set_limits, update
from sketch.snapshot import Packed, pack, unpack
from sketch.snapshot_checks import array_of, check_hot_set, integer_of, refusing
from sketch.tracking import (
    LOW_ROWS,
    NUM_BINS,
    NUM_CANDIDATES,
    NUM_COUNTS,
    NUM_FREE,
    NUM_LIMITS,
    Buffers,
    State,
    count_scores,
)

__all__ = ["REVIEW_CHANGES", "REVIEW_EVENTS", "HotSet"]

_MAGIC = b"hotset"
REVIEW_EVENTS = 4096
_REVIEW_BUCKETS = 256
REVIEW_CHANGES = 256
_STANDARD_ERRORS = 1.5  # by which a score must pass the score at the last rank
_HALF_LIFE_PER_ROW = 1000
_LEAST_HALF_LIFE_EVENTS = 64  # below, the half-lives of one review would leave nothing of a score
_MOST_HALF_LIVES = 64.0
_MOST_MS = 1 << 52
_RECENT = 1 / 16  # weight of one review in the moments
_DRIFT_DECAY = 1 / 8  # factor for all scores after a drift
_CHUNK = 16 * REVIEW_EVENTS  # events of one kernel call: bounds the buffers of its changes


class HotSet:
    """The keys at the top of a sketch are hot, each with a row of its own; all other keys are cold.

    The sketch's scores decide, with hysteresis: a key is promoted when its score exceeds the score at the last rank
    (`capacity`) by a band, and demoted when it falls below it by the same band or loses its slot. The band is the noise
    in such a score, 1.5 standard errors: wide while few events have been counted, narrow after many. The score at a
    rank comes from a histogram that every insertion updates, so only the few candidates of one review are ever sorted.

    - There are never more than `capacity` hot keys, at any point of the sequence of changes.
    - A row is freed by a demotion before another key takes it.
    - A review, every 4096 events and whenever `review` is called, makes at most 256 changes, the highest scores first.
      Evicted keys come on top.
    - A change to cold is always of a hot key.
    - Scores decay slowly. When the hot set's share of the events suddenly falls, all scores are divided by 8 once, so
      that new keys rise soon. Only events whose key has a slot count: a flood of keys that occur once is no drift.
    - Time is the number of events, or event time, never the wall clock. State and changes are a pure function of the
      parameters and the sequence of keys, scores and event times, however that is cut into updates.

    Args:
        capacity: rows for hot keys.
        sketch: the sketch to fill; the set owns it from here on.
        first_row: the rows are `first_row ... first_row + capacity - 1`.
        half_life_events: the half-life of a score in events, 64 or more; 1000 per row by default, `math.inf` for no
            decay.
        half_life_ms: the half-life in event time, instead; `update` then needs the event time. Shards with different
            numbers of events then decay alike, and their scores compare.

    Memory: beside the sketch two bytes per slot and one bit per row; from 65,537 rows up one more byte per slot, from
    16.8 M two (`growing_bytes`).
    """

    def __init__(
        self,
        capacity: int,
        sketch: HotSketch,
        *,
        first_row: int = 0,
        half_life_events: float | None = None,
        half_life_ms: float | None = None,
    ) -> None:
        if capacity < 1 or first_row < 0 or first_row + capacity >= 1 << 31:
            raise ParameterError(f"capacity {capacity} from row {first_row}: expected 1 or more rows below 2^31")
        self.capacity = capacity
        self.first_row = first_row
        if half_life_events is not None and half_life_ms is not None:
            raise ParameterError("half_life_events and half_life_ms: got both, expected one")
        self.half_life_events = None if half_life_ms is not None else half_life_events
        self.half_life_ms = half_life_ms
        if half_life_events is None and half_life_ms is None:
            self.half_life_events = float(_HALF_LIFE_PER_ROW * capacity)
        if self.half_life_events is not None and not self.half_life_events >= _LEAST_HALF_LIFE_EVENTS:
            raise ParameterError(
                f"half_life_events: got {half_life_events}, expected {_LEAST_HALF_LIFE_EVENTS} or more"
            )
        if half_life_ms is not None and not half_life_ms >= 1:
            raise ParameterError(f"half_life_ms: got {half_life_ms}, expected 1 or more")
        self.sketch = sketch
        self._now_ms: int | None = None
        self._decayed_ms = 0
        self._state = _new_state(capacity, sketch)
        self._rules = self._make_rules()
        sketch.hot_bits[:] = 0
        count_scores(sketch.codes, self._state.histogram)
        set_limits(self._state, self._rules)

    def _make_rules(self) -> Rules:
        ignores_drift = math.inf in {self.half_life_events, self.half_life_ms}
        return Rules(
            capacity=self.capacity,
            first_row=self.first_row,
            reserve=max(1, self.capacity // 64),
            standard_errors=_STANDARD_ERRORS,
            events=REVIEW_EVENTS,
            sweep=_REVIEW_BUCKETS,
            budget=REVIEW_CHANGES,
            recent=_RECENT,
            drift_decay=1.0 if ignores_drift else _DRIFT_DECAY,
        )

    @property
    def num_hot(self) -> int:
        """The number of hot keys."""
        return self.capacity - int(self._state.counts[NUM_FREE])

    @property
    def nbytes(self) -> int:
        """Bytes of the sketch and of the set's own arrays."""
        return self.sketch.nbytes + sum(array.nbytes for array in self._state)

    @staticmethod
    def growing_bytes(capacity: int, num_buckets: int, slots_per_bucket: int = kernels.MAX_SLOTS) -> int:
        """Bytes of a set's own arrays, without those of a fixed size."""
        slot_bytes = 2 + _num_high_bytes(capacity)
        return num_buckets * slots_per_bucket * slot_bytes + 8 * _num_words(capacity)

    def update(self, keys: Keys, scores: npt.ArrayLike = 1.0, event_time_ms: int | None = None) -> Changes:
        """Counts the keys in order and returns the changes.

        Args:
            keys: (K,) uint64.
            scores: (K,), or one score for all keys; `HotSketch.insert` lists the scores that are rejected.
            event_time_ms: the time of these events, needed if scores decay in event time. A time before the last one
                counts as the last one. One update advances time by one half-life at most, so that a single wrong time
                cannot erase all scores.

        Returns:
            The changes in order; apply all of them, or the last one of each key.

        Raises:
            ParameterError: the shapes differ, or the event time is missing.
        """
        self._advance(event_time_ms)
        keys, scores, _ = self.sketch.check(keys, scores)
        chunks = range(0, len(keys), _CHUNK)
        return Changes.concatenate(
            [self._update(keys[start : start + _CHUNK], scores[start : start + _CHUNK]) for start in chunks]
        )

    def _update(self, keys: Keys, scores: npt.NDArray[np.float32]) -> Changes:
        sketch, decays = self.sketch, (1.0, 1.0)
        num_reviews = (sketch.position % REVIEW_EVENTS + len(keys)) // REVIEW_EVENTS
        if num_reviews:
            decays = self._decay_factor(), self._decay_factor()  # no event time passes between two reviews of one call
        out = _buffers(len(keys) + num_reviews * REVIEW_CHANGES)
        sketch.scale, num_changes = update(
            sketch.table, keys, scores, *sketch.kernel_state(), self._state, self._rules, *decays, out
        )
        sketch.position += len(keys)
        return Changes(*out).first(num_changes)

    @property
    def num_reviews(self) -> int:
        """The number of reviews that the counted events have caused."""
        return self.sketch.position // REVIEW_EVENTS

    def review(self) -> Changes:
        """Reviews the set now, before the next review is due; returns the changes, at most 256.

        Scores that decay in events do not decay in it.
        """
        sketch, out = self.sketch, _buffers(REVIEW_CHANGES)
        decay = 1.0 if self.half_life_ms is None else self._decay_factor()
        sketch.scale, num_changes = review_early(
            sketch.table, sketch.mixed_seed, sketch.scale, self._state, self._rules, decay, out
        )
        return Changes(*out).first(num_changes)

    def _advance(self, event_time_ms: int | None) -> None:
        if self.half_life_ms is None:
            return
        if event_time_ms is None:
            raise ParameterError("event_time_ms: got None, but scores decay in event time (half_life_ms)")
        if self._now_ms is None:
            self._now_ms = self._decayed_ms = event_time_ms
        most_ms = self._now_ms + max(1, int(min(self.half_life_ms, _MOST_MS)))
        self._now_ms = max(self._now_ms, min(event_time_ms, most_ms))

    def _decay_factor(self) -> float:
        """The decay factor for the time since the last review."""
        if self.half_life_events is not None:
            return 2.0 ** (-REVIEW_EVENTS / self.half_life_events)
        if self.half_life_ms is None or self._now_ms is None:
            return 1.0
        elapsed_ms, self._decayed_ms = self._now_ms - self._decayed_ms, self._now_ms
        return 2.0 ** -min(elapsed_ms / self.half_life_ms, _MOST_HALF_LIVES)

    def table(self) -> tuple[Keys, npt.NDArray[np.int32]]:
        """The hot keys, ascending, (K,) uint64, and their rows, (K,) int32."""
        is_hot = np.unpackbits(self.sketch.hot_bits[:, None], axis=1, bitorder="little")
        buckets, slots = np.nonzero(is_hot)
        keys = self.sketch.keys_at(buckets * 8 + slots)
        order = np.argsort(keys)
        buckets, slots = buckets[order], slots[order]
        rows = self.first_row + self._state.low[buckets, slots].astype(np.int64)
        for byte, high in enumerate(self._state.high):
            rows += (high[buckets, slots].astype(np.int64) << 8 * byte) * LOW_ROWS
        return keys[order], rows.astype(np.int32)

    def to_bytes(self) -> bytes:
        """The whole state with the sketch: a set from `from_bytes` continues bit for bit as this one would."""
        parameters = {
            "capacity": self.capacity,
            "first_row": self.first_row,
            "half_life_events": _hex(self.half_life_events),
            "half_life_ms": _hex(self.half_life_ms),
            "times": [self._now_ms, self._decayed_ms],
        }
        arrays: dict[str, npt.NDArray[Any]] = self._state._asdict()
        del arrays["histogram"]  # follows from the scores
        arrays["candidates"] = self._state.candidates[: self._state.counts[NUM_CANDIDATES]]
        arrays["sketch"] = np.frombuffer(self.sketch.to_bytes(), np.uint8)
        return pack(_MAGIC, parameters, arrays)

    @classmethod
    def from_bytes(cls, data: Packed) -> HotSet:
        """Restores a hot set from `to_bytes`.

        Raises:
            SnapshotError: the bytes are malformed or damaged.
        """
        parameters, arrays = unpack(_MAGIC, data)
        with refusing("hot set"):
            sketch = HotSketch.from_bytes(arrays["sketch"])
            hot_bits = sketch.hot_bits.copy()
            capacity = integer_of(parameters, "capacity", 1, (1 << 31) - 1)
            array_of(arrays, "free_rows", np.int64, (_num_words(capacity),))  # before as much is allocated
            hot_set = cls(
                capacity,
                sketch,
                first_row=integer_of(parameters, "first_row"),
                half_life_events=_unhex(parameters["half_life_events"]),
                half_life_ms=_unhex(parameters["half_life_ms"]),
            )
            hot_set._load_times(*parameters["times"])
            hot_set._load(arrays, hot_bits)
        return hot_set

    def _load_times(self, now_ms: object, decayed_ms: object) -> None:
        times = {"now": now_ms, "decayed": decayed_ms}
        self._now_ms = None if now_ms is None else integer_of(times, "now", -_MOST_MS)
        latest_ms = 0 if self._now_ms is None else self._now_ms
        self._decayed_ms = integer_of(times, "decayed", -_MOST_MS, latest_ms)  # time never goes back

    def _load(self, arrays: dict[str, npt.NDArray[Any]], hot_bits: npt.NDArray[np.uint8]) -> None:
        own = self._state._asdict()
        del own["histogram"]  # follows from the scores
        own["candidates"] = self._state.candidates[: len(arrays["candidates"])]
        held = {name: array_of(arrays, name, array.dtype.type, array.shape) for name, array in own.items()}
        check_hot_set(
            self._state._replace(**held),
            self.sketch.codes,
            hot_bits,
            num_events=self.sketch.position % REVIEW_EVENTS,
            capacity=self.capacity,
        )
        for name, array in own.items():
            array[:] = held[name]
        self.sketch.hot_bits[:] = hot_bits


def _hex(number: float | None) -> str | None:
    return None if number is None else float(number).hex()


def _unhex(text: str | None) -> float | None:
    return None if text is None else float.fromhex(text)


def _new_state(capacity: int, sketch: HotSketch) -> State:
    """The arrays of a set without hot keys."""
    are_free = np.arange(_num_words(capacity) * 64) < capacity
    counts = np.zeros(NUM_COUNTS, np.int64)
    counts[NUM_FREE] = capacity
    return State(
        low=np.zeros(sketch.codes.shape, np.uint16),
        high=np.zeros((_num_high_bytes(capacity), *sketch.codes.shape), np.uint8),
        free_rows=np.packbits(are_free, bitorder="little").view(np.int64),
        histogram=np.zeros(NUM_BINS, np.int64),
        limits=np.full(NUM_LIMITS, kernels.RENORMALISE_CODE, np.int64),  # no rank yet: nothing passes
        counts=counts,
        moments=np.ones(2, np.float64),
        drift=np.zeros(NUM_AVERAGES, np.float64),
        candidates=np.zeros(REVIEW_EVENTS + _REVIEW_BUCKETS * kernels.MAX_SLOTS, np.int64),
    )


def _num_high_bytes(capacity: int) -> int:
    """The number of bytes of a row beyond its first two."""
    return (((capacity - 1) // LOW_ROWS).bit_length() + 7) // 8


def _num_words(capacity: int) -> int:
    """The number of 64-bit words that hold one bit per row."""
    return -(-capacity // 64)


def _buffers(size: int) -> Buffers:
    """Buffers for `size` changes."""
    return Buffers(np.empty(size, np.uint64), np.empty(size, np.int32), np.empty(size, np.float32))
