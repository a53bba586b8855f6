"""`Ranks`: gives the features that a hot set tracks rows of several tiers, the best tier to the most important ones.

    HotSet --changes--> tracked: slot --> (tier, row)      a new feature gets a row of the lowest tier with a free one
                        review, every 16 steps:            all tracked features are ranked, and change tiers

K features; T tiers, the best first, of `capacities[t]` rows each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sketch.hotset import HotSet
from sketch.hotsketch import HotSketch
from sketch.keymap import ABSENT, KeyMap
from trainer.embedding.plans import map_bytes
from trainer.evaluate.methods.cafe import agent_bytes, fixed_bytes

__all__ = ["COLD", "Moves", "Ranks", "ranks_bytes"]

COLD = -1  # the tier of a feature that is not tracked
_STEPS = 16  # between two reviews
_BUCKETS_PER_ROW = 0.34  # of the sketch, as `hotstream` has here
_SLOT_BYTES = 5  # the tier and the row of a slot
_FEWEST_KEYS, _BUCKET_BYTES = 512, 48  # a smaller map may grow once, by a quarter
_HYSTERESIS = 0.1  # by which a score must pass that of a feature one tier above

Ids = npt.NDArray[np.int64]
_NONE: tuple[Ids, Ids, Ids] = (np.empty(0, np.int64),) * 3
Order = Callable[[Ids, npt.NDArray[np.float64]], npt.NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Moves:
    """M features that change tier or row. All sources are read before any target is written.

    Attributes:
        ids: (M,) feature numbers.
        tier: (M,) the tier before, `COLD` if the feature was not tracked.
        row: (M,) its row.
        to_tier: (M,) the tier after, likewise.
        to_row: (M,) its row.
    """

    ids: Ids
    tier: Ids
    row: Ids
    to_tier: Ids
    to_row: Ids

    def __len__(self) -> int:
        return len(self.ids)


def _num_buckets(num_tracked: int) -> int:
    return max(1, round(_BUCKETS_PER_ROW * num_tracked))


def ranks_bytes(num_tracked: int) -> int:
    """The most bytes that `Ranks` of so many rows takes."""
    growth = map_bytes(num_tracked) // 4 + _BUCKET_BYTES if num_tracked < _FEWEST_KEYS else 0
    return (
        agent_bytes(num_tracked, _num_buckets(num_tracked))
        + map_bytes(num_tracked)
        + growth
        + (_SLOT_BYTES * num_tracked)
    )


class Ranks:
    """The tiers and rows of the tracked features.

    Args:
        capacities: rows of each tier.
        seed: seed of the sketch.
        order: from feature numbers (K,) and scores (K,) to what they are ranked by; the scores themselves by default.
    """

    def __init__(self, capacities: Sequence[int], seed: int, order: Order = lambda _, scores: scores) -> None:
        self.capacities, self._order = np.asarray(capacities, np.int64), order
        total = int(self.capacities.sum())
        self.hot_set = HotSet(total, HotSketch(_num_buckets(total), seed=seed))
        self._slots = KeyMap(total)
        self._tier = np.full(total, COLD, np.int8)
        self._row = np.zeros(total, np.int32)
        self._num_steps = 0
        self.num_promoted = self.num_demoted = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the tracker, without its buffers of a fixed size, of the map and of the slots."""
        return self.hot_set.nbytes - fixed_bytes() + self._slots.nbytes + self._tier.nbytes + self._row.nbytes

    def find(self, ids: Ids) -> tuple[Ids, Ids]:
        """Tiers (K,), `COLD` for features that are not tracked, and rows (K,) of feature numbers (K,)."""
        slots = self._slots.get(_keys(ids)).astype(np.int64)
        is_tracked = slots != ABSENT
        slots[~is_tracked] = 0
        return np.where(is_tracked, self._tier[slots], COLD), self._row[slots].astype(np.int64)

    def update(self, ids: Ids, scores: npt.NDArray[np.float32]) -> Moves:
        """Counts the scores (K,) of distinct features; returns what changes tier or row."""
        changes = self.hot_set.update(_keys(ids), scores)
        keys, last = np.unique(changes.key[::-1], return_index=True)
        self._num_steps += 1
        is_review = self._num_steps % _STEPS == 0
        before = self.tracked() if is_review else _NONE
        changed = (keys.view(np.int64) - 1).astype(np.int64)
        tier, row = self.find(changed)
        slots = changes.row[::-1][last].astype(np.int64)  # (C,) -1 for a feature that is no longer tracked
        self._forget(keys)
        is_back = (slots >= 0) & (tier != COLD)  # left and returned within the step: it keeps its row
        self._settle(changed[is_back], slots[is_back], tier[is_back], row[is_back])
        is_new = (slots >= 0) & (tier == COLD)
        self._settle(changed[is_new], slots[is_new], *self._free_rows(int(is_new.sum())))
        self.num_promoted += int(is_new.sum())
        self.num_demoted += int(((slots < 0) & (tier != COLD)).sum())
        if is_review:
            self._review()
        return self._moves_since(before, changed, tier, row)

    def tracked(self) -> tuple[Ids, Ids, Ids]:
        """Feature numbers, tiers and rows of all tracked features."""
        keys, slots = self._slots.items()
        return keys.view(np.int64) - 1, self._tier[slots].astype(np.int64), self._row[slots].astype(np.int64)

    def _moves_since(self, before: tuple[Ids, Ids, Ids], changed: Ids, tier: Ids, row: Ids) -> Moves:
        """What differs from the moment before; `changed` are the features that the hot set named, and their states."""
        ids = np.union1d(before[0], changed)
        old_tier, old_row = np.full(len(ids), COLD, np.int64), np.zeros(len(ids), np.int64)
        for group, tiers, rows in (before, (changed, tier, row)):
            at = np.searchsorted(ids, group)
            old_tier[at], old_row[at] = tiers, rows
        new_tier, new_row = self.find(ids)
        is_moved = (old_tier != new_tier) | ((old_row != new_row) & (new_tier != COLD))
        return Moves(
            ids=ids[is_moved],
            tier=old_tier[is_moved],
            row=old_row[is_moved],
            to_tier=new_tier[is_moved],
            to_row=new_row[is_moved],
        )

    def _forget(self, keys: npt.NDArray[np.uint64]) -> None:
        slots = self._slots.get(keys)
        is_tracked = slots != ABSENT
        self._tier[slots[is_tracked]] = COLD
        self._slots.remove(keys[is_tracked])

    def _settle(self, ids: Ids, slots: Ids, tier: Ids, row: Ids) -> None:
        self._slots.put(_keys(ids), slots.astype(np.int32))
        self._tier[slots], self._row[slots] = tier, row

    def _free_rows(self, count: int) -> tuple[Ids, Ids]:
        """So many free rows, of the lowest tiers that have some."""
        tiers, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for tier in range(len(self.capacities) - 1, -1, -1):
            used = self._row[self._tier == tier]
            free = np.setdiff1d(np.arange(self.capacities[tier]), used)[:count]
            count -= len(free)
            tiers.append(np.full(len(free), tier, np.int64))
            rows.append(free)
        return np.concatenate(tiers), np.concatenate(rows)

    def _review(self) -> None:
        """Gives the best features the best tiers; a feature stays unless another one passes it by a tenth."""
        keys, slots = self.hot_set.table()
        if not len(keys):
            return
        ranked = self._order(keys.view(np.int64) - 1, self.hot_set.sketch.query(keys).astype(np.float64))
        ranked = ranked * (1 + _HYSTERESIS * (len(self.capacities) - 1 - self._tier[slots]))
        order = np.argsort(-ranked, kind="stable")
        target = np.empty(len(keys), np.int64)
        target[order] = np.searchsorted(np.cumsum(self.capacities), np.arange(len(keys)), side="right")
        moving = np.flatnonzero(target != self._tier[slots])
        self._tier[slots[moving]] = COLD
        for tier, capacity in enumerate(self.capacities):
            arriving = slots[moving[target[moving] == tier]]
            free = np.setdiff1d(np.arange(capacity), self._row[self._tier == tier])
            self._tier[arriving], self._row[arriving] = tier, free[: len(arriving)]


def _keys(ids: Ids) -> npt.NDArray[np.uint64]:
    """Keys of feature numbers; no key is 0."""
    return (np.asarray(ids, np.int64) + 1).view(np.uint64)
