"""A hot set over a bounded Zipf stream whose features change, at sizes that one machine carries."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sketch.hashing import mix64_array
from sketch.hotset import HotSet
from sketch.hotsketch import HotSketch

__all__ = ["EXPONENT", "HALF_LIFE_PER_ROW", "LIFETIME_HALF_LIVES", "Simulated", "draw_ranks", "simulate"]

Keys = npt.NDArray[np.uint64]

EXPONENT = 1.05
HALF_LIFE_PER_ROW = 1000  # events; the default of the agents
LIFETIME_HALF_LIVES = 20.0  # after which another feature has taken a rank
_FIELD_BITS = np.uint64(56)
_LOOKUPS = 8192 * 26  # of a click record
_WARM_HALF_LIVES, _MEASURED_HALF_LIVES = 2.0, 0.5


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What a hot set did, once it was full.

    Attributes:
        features: distinct ranks of the stream.
        capacity: hot rows.
        hit_share: share of the lookups whose feature was hot before its record.
        best_share: the same if the features of the best ranks were hot, and no others.
        changes_per_event: changes of the hot set for each feature counted.
        bytes_per_row: memory of sketch and hot set.
        events_per_s: distinct features of records counted on this machine, without Kafka.
        restore_s_per_million_rows: to restore a snapshot in memory.
    """

    features: int
    capacity: int
    hit_share: float
    best_share: float
    changes_per_event: float
    bytes_per_row: float
    events_per_s: float
    restore_s_per_million_rows: float


def draw_ranks(rng: np.random.Generator, features: int, size: int) -> Keys:
    """Ranks 0 to `features` - 1 of a Zipf law, by the inverse of its continuous form: uint64, shape (size,)."""
    power = 1.0 - EXPONENT
    ranks = (1.0 - rng.random(size) * (1.0 - (features + 1.0) ** power)) ** (1.0 / power)
    return (np.minimum(ranks, features) - 1.0).astype(np.uint64)


def best_share(features: int, capacity: int) -> float:
    """The share of the events that the best ranks have."""
    power = 1.0 - EXPONENT
    return (1.0 - (capacity + 1.0) ** power) / (1.0 - (features + 1.0) ** power)


def _keys_of(ranks: Keys, event: float, lifetime: float, fields: int) -> Keys:
    """The features that have these ranks now; each rank changes its feature at a time of its own."""
    phases = (mix64_array(ranks) >> np.uint64(40)).astype(np.float64) / (1 << 24)
    generations = (event / lifetime + phases).astype(np.uint64)
    names = mix64_array(ranks + (generations << np.uint64(36)))
    field_numbers = names % np.uint64(fields) + np.uint64(1)
    return (field_numbers << _FIELD_BITS) | (names >> np.uint64(8))


def simulate(features: int, capacity: int, fields: int, seed: int) -> Simulated:
    """Runs a hot set until it is full and steady, and then for half a half-life.

    As the agents do, it counts each distinct feature of a click record once, with a score.
    """
    rng, half_life = np.random.default_rng(seed), float(HALF_LIFE_PER_ROW * capacity)
    hot_set, lifetime = HotSet(capacity, HotSketch(capacity, seed=seed)), LIFETIME_HALF_LIVES * half_life
    warm, end = int(_WARM_HALF_LIVES * half_life), int((_WARM_HALF_LIVES + _MEASURED_HALF_LIVES) * half_life)
    hits = looked = changes = counted = 0
    counting_s, event = 0.0, 0
    while event < end:
        keys, counts = np.unique(
            _keys_of(draw_ranks(rng, features, _LOOKUPS), float(event), lifetime, fields), return_counts=True
        )
        if event >= warm and looked <= 20 * _LOOKUPS:  # looking costs more than counting
            hits += int(counts[np.isin(keys, hot_set.table()[0])].sum())
            looked += _LOOKUPS
        begin_s = time.perf_counter()
        made = hot_set.update(keys, counts)
        counting_s += time.perf_counter() - begin_s
        if event >= warm:
            counted += len(keys)
            changes += len(made)
        event += len(keys)
    snapshot = hot_set.to_bytes()
    begin_s = time.perf_counter()
    HotSet.from_bytes(snapshot)
    return Simulated(
        features=features,
        capacity=capacity,
        hit_share=hits / looked,
        best_share=best_share(features, capacity),
        changes_per_event=changes / counted,
        bytes_per_row=hot_set.nbytes / capacity,
        events_per_s=event / counting_s,
        restore_s_per_million_rows=(time.perf_counter() - begin_s) / capacity * 1e6,
    )
