"""Which assignment records a trainer applies: each shard's own history, once, in its order.

The rules of the topic: a record counts only if its `seq` is newer than what was applied for its shard; `epoch` names
the agent's configuration, so a record of an older one than known is ignored, and at a newer one everything that the
shard had said before is forgotten (its rows may now be other keys').
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sketch.changes import COLD, NO_ROW, Changes
from sketch.hashing import shard_of
from streams.records import TIERS, Assignment

__all__ = ["AssignmentFollower", "Standing"]


@dataclass(frozen=True)
class Standing:
    """How far a shard's history has been applied."""

    epoch: int
    seq: int


class AssignmentFollower:
    """Turns assignment records into the changes that are new.

    Args:
        num_shards: partitions of the assignments topic.
    """

    def __init__(self, num_shards: int) -> None:
        self.num_shards = num_shards
        self.standings: dict[int, Standing] = {}
        self.num_skipped = 0

    def changes(self, records: Sequence[Assignment], known_keys: Callable[[], npt.NDArray[np.uint64]]) -> Changes:
        """The changes of the records that are new, in order; they count as applied from here on.

        Args:
            records: in the order of their partitions' offsets.
            known_keys: gives all hot and warm keys, of which a shard forgets its own when its epoch grows.
        """
        parts: list[Changes] = []
        fresh: list[Assignment] = []
        for record in records:
            standing = self.standings.get(record.shard)
            if standing is not None and (record.epoch, record.seq) <= (standing.epoch, standing.seq):
                self.num_skipped += 1
                continue
            if standing is not None and record.epoch > standing.epoch:
                parts += [_to_changes(fresh), self._forget(record.shard, known_keys(), fresh)]
                fresh = []
            self.standings[record.shard] = Standing(record.epoch, record.seq)
            fresh.append(record)
        return Changes.concatenate([*parts, _to_changes(fresh)])

    def _forget(self, shard: int, known_keys: npt.NDArray[np.uint64], fresh: Sequence[Assignment]) -> Changes:
        """Every key of a shard made cold."""
        keys = np.concatenate([known_keys, np.array([record.key for record in fresh], np.uint64)])
        keys = np.unique(keys[shard_of(keys, self.num_shards) == shard])
        return Changes(
            keys,
            np.full(len(keys), COLD, np.uint8),
            np.full(len(keys), NO_ROW, np.int32),
            np.zeros(len(keys), np.float32),
        )

    def to_state(self) -> dict[str, Any]:
        """What `load_state` needs, for JSON."""
        return {str(shard): [standing.epoch, standing.seq] for shard, standing in self.standings.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `to_state` gave."""
        self.standings = {int(shard): Standing(*pair) for shard, pair in state.items()}


def _to_changes(records: Sequence[Assignment]) -> Changes:
    return Changes(
        np.array([record.key for record in records], np.uint64),
        np.array([TIERS.index(record.tier) for record in records], np.uint8),
        np.array([NO_ROW if record.row is None else record.row for record in records], np.int32),
        np.array([record.score or 0.0 for record in records], np.float32),
    )
