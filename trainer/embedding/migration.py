"""`resolve`: the net effect of a batch of changes, equal to applying them one by one but computed with sorts.

As the protocol of the assignments topic requires, the key of the latest record that names a row owns the row. A former
owner whose own demotion was compacted away or has not arrived yet shares rows from then on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sketch.changes import Changes
from sketch.keymap import ABSENT
from trainer.embedding.router import Router
from trainer.errors import CapacityError

__all__ = ["ApplyReport", "Migration", "MigrationReport", "resolve"]

Values = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class MigrationReport:
    """The effects of a batch of changes; every key counts once, by its rows before and after the batch.

    Attributes:
        promoted: keys that moved from shared rows to a unique row.
        moved: keys that moved from one unique row to another.
        demoted: keys that moved from a unique row to shared rows.
        evicted: demoted keys whose row was reassigned before their own demotion arrived.
        ignored: changes without effect: repeated, or superseded within the batch.
    """

    promoted: int = 0
    moved: int = 0
    demoted: int = 0
    evicted: int = 0
    ignored: int = 0


ApplyReport = MigrationReport  # the former name, kept for importers


@dataclass(frozen=True)
class Migration:
    """Keys whose row changes, with the router's values before and after: (K,) each.

    A value is a unique row or `ABSENT`.
    """

    keys: npt.NDArray[np.uint64]
    before: Values
    after: Values
    report: MigrationReport

    @property
    def takes_row(self) -> npt.NDArray[np.bool_]:
        """(K,) whether the key gets a unique row; these rows are distinct."""
        return self.after >= 0


def _values_of(changes: Changes, capacity_rows: int) -> Values:
    """The router's value for each change.

    Raises:
        CapacityError: a row over capacity - 1.
    """
    top_row = int(changes.row.max(initial=-1))
    if top_row >= capacity_rows:
        raise CapacityError(
            f"an assignment names unique row {top_row}, this trainer has 0 to {capacity_rows - 1}; "
            "start it with the agent's --capacity"
        )
    return np.where(changes.is_hot, changes.row, np.int32(ABSENT))


def _last_of(words: npt.NDArray[np.uint64] | Values) -> npt.NDArray[np.int64]:
    """The index of the last occurrence of each distinct word, in ascending order of the words."""
    _, from_end = np.unique(words[::-1], return_index=True)
    return len(words) - 1 - from_end


def _displaced(values: Values, before: Values, router: Router) -> npt.NDArray[np.uint64]:
    """Hot keys whose row a change reassigns although no change names the key itself.

    Args:
        values: the router's values for the changes.
        before: the current values of the keys that the changes name.
        router: the router before the changes.
    """
    return router.owners(np.setdiff1d(values[values >= 0], before))


def resolve(changes: Changes, router: Router, capacity_rows: int) -> Migration:
    """The net migration of the changes; does not modify the router. O(K log K).

    Raises:
        CapacityError: a row over capacity - 1.
    """
    values = _values_of(changes, capacity_rows)
    last = _last_of(changes.key)  # one index per distinct key
    keys, after = changes.key[last], values[last]

    # A key keeps the row of its last change only if no later change names the same row.
    named = np.flatnonzero(values >= 0)
    owning = np.isin(last, named[_last_of(values[named])])
    lost = (after >= 0) & ~owning
    after = np.where(lost, np.int32(ABSENT), after)

    before = router.values(keys)
    displaced = _displaced(values, before, router)
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
