"""The configuration of a sketch agent's shards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sketch import HotSet, HotSketch, ParameterError
from streams.assignments.row_ranges import rows_of_shard
from streams.errors import ConfigError
from streams.event_clock import EventClock
from streams.records import MAX_UNIQUE_ROWS

__all__ = ["ShardConfig"]

_MOST_MS = 1 << 62


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """The configuration of an agent, the same for every shard.

    Args:
        capacity: hot rows over all shards.
        num_shards: partitions of the importance topic.
        buckets_per_row: sketch buckets (64 bytes) for each hot row.
        half_life_events: the number of feature events, over all shards, after which a score counts half.
        half_life_s: alternatively, the half-life in seconds of event time, equal for all shards. If neither is given:
            1000 events a row.
        admission: the sketch's rule for new keys.
        seed: the sketch's seed.
    """

    capacity: int
    num_shards: int
    buckets_per_row: float = 1.0
    half_life_events: float | None = None
    half_life_s: float | None = None
    admission: str = "randomized"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.capacity < self.num_shards:
            raise ConfigError(
                f"capacity: got {self.capacity} rows for {self.num_shards} shards, expected at least one a shard"
            )
        if self.capacity > MAX_UNIQUE_ROWS:
            raise ConfigError(f"capacity: got {self.capacity} rows, expected at most {MAX_UNIQUE_ROWS}")
        if not self.buckets_per_row > 0:
            raise ConfigError(f"buckets_per_row: got {self.buckets_per_row}, expected more than 0")
        try:
            HotSet(1, HotSketch(1), **self._half_life())
        except ParameterError as error:
            raise ConfigError(f"half-life of a shard (of {self.num_shards}): {error}") from error

    def rows_of(self, shard: int) -> tuple[int, int]:
        """First row and number of rows of a shard, as `rows_of_shard`."""
        return rows_of_shard(self.capacity, self.num_shards, shard)

    def _half_life(self) -> dict[str, Any]:
        """The half-life of one shard, as `HotSet` takes it."""
        events, seconds = self.half_life_events, self.half_life_s
        return {
            "half_life_events": None if events is None else events / self.num_shards,
            "half_life_ms": None if seconds is None else seconds * 1000,
        }

    def make_clock(self) -> EventClock | None:
        """A new clock of a shard; None if scores decay in events."""
        half_life_s = self.half_life_s
        return None if half_life_s is None else EventClock(max(1, int(min(half_life_s * 1000, _MOST_MS))))

    def make_hot_set(self, shard: int) -> HotSet:
        """A new hot set for a shard."""
        first_row, rows = self.rows_of(shard)
        buckets = max(1, math.ceil(rows * self.buckets_per_row))
        sketch = HotSketch(buckets, admission=self.admission, seed=self.seed)  # type: ignore[arg-type]
        return HotSet(rows, sketch, first_row=first_row, **self._half_life())
