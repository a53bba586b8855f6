"""The unique rows of a shard: agents assign no others, so whoever owns a shard owns these rows."""

from __future__ import annotations

__all__ = ["rows_of_shard"]


def rows_of_shard(capacity: int, num_shards: int, shard: int) -> tuple[int, int]:
    """First row and number of rows of a shard; the ranges are contiguous and differ in size by at most one."""
    first = capacity * shard // num_shards
    return first, capacity * (shard + 1) // num_shards - first
