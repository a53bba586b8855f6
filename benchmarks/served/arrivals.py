"""`Arrivals`: when a replica's lookup showed each record of a row, and how long after the steps that it is of."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.served.trained import Step
from streams.records.embeddings import EmbeddingRecord, RowRecord
from trainer.serving.replica import Replica

__all__ = ["Arrival", "Arrivals", "delays_of", "quantiles"]


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A unique row's record: its owner, the trainer's rows and time when it was copied, when a lookup showed it."""

    feature: int
    step: int
    copied_ms: int
    shown_ns: int


class Arrivals:
    """Follows the topic with a replica, and looks each row up once it was read.

    Args:
        replica: the replica, which nothing else polls.

    Attributes:
        seen: in the order of their lookups; a row that came twice in one poll counts once, with its newer record.
        num_blocks: records of shared rows, whose keys are not known.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica, self._read = replica, dict[int, RowRecord]()
        self.seen: list[Arrival] = []
        self.num_blocks = 0
        take = replica.state.take

        def noted(partition: int, records: Sequence[tuple[int, EmbeddingRecord]]) -> None:
            take(partition, records)
            for _, record in records:
                if isinstance(record, RowRecord) and record.kind == "u" and record.feature:
                    self._read[record.number] = record
                self.num_blocks += isinstance(record, RowRecord) and record.kind != "u"

        replica.state.take = noted  # type: ignore[method-assign]  # it does the same, and is looked at

    def poll(self) -> None:
        """Reads what has arrived, and looks it up."""
        self._replica.poll(20)
        if not self._replica.is_ready or not self._read:
            return
        found, self._read = list(self._read.values()), {}
        self._replica.lookup(np.array([one.feature for one in found], np.uint64))
        shown_ns = time.time_ns()
        self.seen += [
            Arrival(feature=one.feature, step=one.step, copied_ms=one.time_ms, shown_ns=shown_ns) for one in found
        ]


def delays_of(steps: Iterable[Step], arrivals: Sequence[Arrival], from_ns: int) -> dict[str, list[float]]:
    """Seconds of each row that was shown after `from_ns` and that a step had changed.

    Returns:
        `last`: since the end of the last step that changed it before it was copied; what the row shows.
        `first`: since the end of the first step that changed it after it was copied before; with the wait for its turn.
        `copied`: since it was copied; broker and replica alone.
    """
    trained = defaultdict[int, list[tuple[int, int]]](list)
    wanted = np.unique(np.array([one.feature for one in arrivals], np.uint64))
    for step in steps:
        for key in np.intersect1d(step.keys, wanted).tolist():
            trained[key].append((step.rows, step.ended_ns))
    delays: dict[str, list[float]] = {"last": [], "first": [], "copied": []}
    copied_before = dict[int, int]()
    for one in arrivals:
        before, copied_before[one.feature] = copied_before.get(one.feature, -1), one.step
        mine = [ended_ns for rows, ended_ns in trained[one.feature] if before < rows <= one.step]
        if not mine or before < 0 or one.shown_ns < from_ns:
            continue
        for name, since_ns in (("last", mine[-1]), ("first", mine[0]), ("copied", one.copied_ms * 1_000_000)):
            delays[name].append((one.shown_ns - since_ns) / 1e9)
    return delays


def quantiles(seconds: Sequence[float]) -> dict[str, Any]:
    """Their number, median, 99th percentile and the longest."""
    if not seconds:
        return {"rows": 0}
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return {"rows": len(seconds), "p50_s": round(float(p50), 3), "p99_s": round(float(p99), 3),
            "max_s": round(max(seconds), 3)}  # fmt: skip
