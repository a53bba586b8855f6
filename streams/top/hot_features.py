"""`HotFeatures`: the hot features as they come and go, their numbers by field, and those with the best scores."""

from __future__ import annotations

from collections import Counter
from heapq import nlargest

from streams.records import Assignment

__all__ = ["HotFeatures", "field_of"]

Hot = tuple[Assignment, int]  # the change that made a feature hot, and its time in ms

_LOWEST = (-1.0, 0)


def field_of(feature: str) -> str:
    """The field of a feature's printed form."""
    return feature.partition(":")[0]


class HotFeatures:
    """The hot features by key.

    A view wants the best few of perhaps a million, once a second. So those with the best scores are kept apart: no
    other one has a better score than the worst of them had when they were chosen. All are sorted again only when too
    few of these are left. Cost of a change: O(1); of `best`, nearly always: O(most).

    Args:
        least_kept: how many are kept apart at least.

    Attributes:
        num_by_field: field -> its hot features.
    """

    def __init__(self, *, least_kept: int = 256) -> None:
        self._least_kept = least_kept
        self.num_by_field: Counter[str] = Counter()
        self._all: dict[int, Hot] = {}
        self._top: dict[int, Hot] = {}
        self._floor = _LOWEST  # no feature outside `_top` has a better rank

    def put(self, change: Assignment, time_ms: int) -> bool:
        """Takes a change to hot; returns whether the feature was hot before."""
        was_hot = self.drop(change.key)
        hot = self._all[change.key] = change, time_ms
        self.num_by_field[field_of(change.feature or "")] += 1
        if _rank(hot) > self._floor:
            self._top[change.key] = hot
        return was_hot

    def drop(self, key: int) -> bool:
        """Takes a change to cold; returns whether the feature was hot."""
        before = self._all.pop(key, None)
        if before is None:
            return False
        self.num_by_field[field_of(before[0].feature or "")] -= 1
        self._top.pop(key, None)
        return True

    def best(self, most: int, wanted: str = "") -> list[Hot]:
        """The features with the best scores, best first, the smaller key first among equals.

        Args:
            most: how many at most.
            wanted: only features whose printed form contains this text, in lower case; if given, all are searched.
        """
        if wanted:
            found = (hot for hot in self._all.values() if wanted in (hot[0].feature or "").casefold())
            return nlargest(most, found, key=_rank)
        kept = max(self._least_kept, 2 * most)
        if not min(most, len(self._all)) <= len(self._top) <= 2 * kept:
            chosen = nlargest(kept, self._all.values(), key=_rank)
            self._top = {change.key: (change, time_ms) for change, time_ms in chosen}
            self._floor = _rank(chosen[-1]) if len(chosen) < len(self._all) else _LOWEST
        return nlargest(most, self._top.values(), key=_rank)


def _rank(hot: Hot) -> tuple[float, int]:
    change, _ = hot
    return change.score or 0.0, -change.key
