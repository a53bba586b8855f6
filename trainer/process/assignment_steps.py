"""`AssignmentSteps`: applies assignment records between steps, and dead-letters those that cannot be applied."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from streams.assignments.columns import Fetch, Record
from streams.clients.topic_feed import Taken
from streams.keys import Keys
from streams.records import Assignment, BadRecord
from streams.telemetry.bad_record_log import BadRecordLog
from trainer.process.outbox import Outbox
from trainer.process.run import TrainingRun

__all__ = ["AssignmentSteps"]


class AssignmentSteps:
    """Applies assignment records.

    Args:
        run: the run whose model follows.
        outbox: sends dead letters.
        bad_records: logs bad records.
        on_applied: called with the keys of the changes that were applied.
    """

    def __init__(
        self,
        run: TrainingRun,
        outbox: Outbox,
        bad_records: BadRecordLog,
        on_applied: Callable[[Keys], None] = lambda _keys: None,
    ) -> None:
        self._on_applied = on_applied
        self._run, self._outbox, self._bad_records = run, outbox, bad_records

    def apply(self, changes: list[Taken], log_ends: Mapping[int, int]) -> None:
        """Applies assignment records as one batch; those that cannot be applied go to the dead letters."""
        by_partition: dict[int, list[Taken]] = {}
        for taken in changes:
            if isinstance(taken.decoded, BadRecord):
                self._run.progress.bad_assignments += 1
                self._refuse(taken, taken.decoded.reason)
            elif isinstance(taken.decoded, Record):
                by_partition.setdefault(taken.record.partition, []).append(taken)
        fetches = [
            Fetch(
                partition=partition,
                records=[taken.decoded for taken in accepted],
                offsets=[taken.record.offset for taken in accepted],
                end_offset=log_ends.get(partition),
            )
            for partition, accepted in by_partition.items()
        ]
        outcomes = self._run.apply(fetches)
        for outcome in outcomes:
            self._on_applied(outcome.changes.key)
        for accepted, outcome in zip(by_partition.values(), outcomes, strict=True):
            for index, reason in outcome.refused.items():
                self._refuse(accepted[index], reason)
        now_ms = time.time_ns() // 1_000_000
        ages_ms = [now_ms - taken.record.timestamp for taken in changes if isinstance(taken.decoded, Assignment)]
        if ages_ms:
            self._run.progress.latency.add(ages_ms)

    def _refuse(self, taken: Taken, reason: str) -> None:
        self._bad_records.add(taken.record, reason)
        self._outbox.send_dead_letter(taken.record, reason)
