"""What a batch of changes comes to: as if each were applied in its turn, worked out with sorts.

The rules of the assignments topic: the latest record that names a row owns the row, so an owner before it, whose own
demotion was lost (compaction, or still on its way), shares rows from then on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sketch.changes import HOT, Changes
from sketch.keymap import ABSENT
from trainer.embedding.router import Router
from trainer.errors import CapacityError

__all__ = ["ApplyReport", "Migration", "MigrationReport", "resolve"]

Values = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class MigrationReport:
    """What a batch of changes did; every key is counted once, by where it was before and is after.

    Attributes:
        promoted: to a unique row, from shared ones.
        moved: hot before and after, in another row.
        demoted: from a unique row, to shared ones.
        evicted: of the demoted, those whose row was taken and whose own demotion never came.
        ignored: changes that moved nothing (a key that becomes warm shares rows as before), that said nothing new, or
            that a later one in the batch overruled.
    """

    promoted: int = 0
    moved: int = 0
    demoted: int = 0
    evicted: int = 0
    ignored: int = 0


ApplyReport = MigrationReport  # its name until `apply` became `migrate`; still importable


@dataclass(frozen=True)
class Migration:
    """Keys whose place changes, what the router knew of them, and what it shall know: (K,) each.

    Values are as the router's: a row or `ABSENT`.
    """

    keys: npt.NDArray[np.uint64]
    before: Values
    after: Values
    report: MigrationReport

    @property
    def takes_row(self) -> npt.NDArray[np.bool_]:
        """(K,) whether the key gets a unique row; no two get the same."""
        return self.after >= 0


def _values_of(changes: Changes, capacity_rows: int) -> Values:
    """The router's values that the changes mean.

    Raises:
        CapacityError: a hot row outside 0 to capacity - 1.
    """
    hot = changes.tier == HOT
    rows = changes.row[hot]
    if len(rows) and (rows.min() < 0 or rows.max() >= capacity_rows):
        worst = int(rows.max()) if rows.max() >= capacity_rows else int(rows.min())
        raise CapacityError(
            f"an assignment names unique row {worst}, this trainer has 0 to {capacity_rows - 1}; "
            "start it with the agent's --capacity"
        )
    values = np.full(len(changes), ABSENT, np.int32)
    values[hot] = rows
    return values


def _last_of(words: npt.NDArray[np.uint64] | Values) -> npt.NDArray[np.int64]:
    """The place of the last occurrence of each distinct word, in ascending order of the words."""
    _, from_end = np.unique(words[::-1], return_index=True)
    return len(words) - 1 - from_end


def _displaced(values: Values, before: Values, router: Router) -> npt.NDArray[np.uint64]:
    """Hot keys of the router whose row a change names and that no change names.

    Args:
        values: what the changes say.
        before: the rows of the keys that they name.
        router: as it is before them.
    """
    return router.owners(np.setdiff1d(values[values >= 0], before))


def resolve(changes: Changes, router: Router, capacity_rows: int) -> Migration:
    """The migration that the changes come to. O(K log K), nothing is changed.

    Raises:
        CapacityError: a hot row outside 0 to capacity - 1.
    """
    said = _values_of(changes, capacity_rows)
    last = _last_of(changes.key)  # one place per distinct key
    keys, after = changes.key[last], said[last]

    # A key keeps the row that its last change names only if no later change names the row.
    named = np.flatnonzero(said >= 0)
    owning = np.isin(last, named[_last_of(said[named])])
    lost = (after >= 0) & ~owning
    after = np.where(lost, np.int32(ABSENT), after)

    before = router.values(keys)
    displaced = _displaced(said, before, router)
    keys = np.concatenate([keys, displaced])
    after = np.concatenate([after, np.full(len(displaced), ABSENT, np.int32)])
    before = np.concatenate([before, router.values(displaced)])
    differs = before != after
    was_hot, is_hot = before >= 0, after >= 0
    evicted = int(np.count_nonzero(lost & (before[: len(last)] >= 0))) + len(displaced)
    report = MigrationReport(
        promoted=int(np.count_nonzero(is_hot & ~was_hot)),
        moved=int(np.count_nonzero(is_hot & was_hot & differs)),
        demoted=int(np.count_nonzero(was_hot & ~is_hot)),
        evicted=evicted,
        ignored=len(changes) - int(np.count_nonzero(differs[: len(last)])),
    )
    return Migration(keys[differs], before[differs], after[differs], report)
