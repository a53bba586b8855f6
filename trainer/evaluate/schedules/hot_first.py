"""`HotFirst`: trains click records that read hot rows only apart from the others (FAE, VLDB'22; Hotline, ISCA'24).

    hot rows      lie with the trainer: the most often read rows of each table so far, learned again every 16 batches
    other rows    are fetched for the step that reads them, and written back after it

With L = 0 a batch is two micro-batches, the hot one and the rest, and one optimizer step, as in Hotline: while the hot
one trains, the rows of the rest can be fetched. Guarantee: the gradient of the whole batch, up to the order of sums.
With L > 0 the hot records of L + 1 batches are packed into batches of their own, which are trained first, as in FAE:
these steps wait for no row. Guarantee: every record is trained exactly once, at most L + 1 batches away from its place.
No guarantee: equal weights; records are trained in another order.

Kept of the papers: the split, its granularity, and hot rows that are learned from the past. Not kept: FAE's profile of
the whole log before training and its scheduler that follows the test loss, Hotline's accelerator. This counts rows and
bytes; it does not measure time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluate.methods.row_tables import Rows, RowTables
from trainer.evaluate.schedules.schedule import Ids, MicroBatch, Schedule, full_row_bytes, record

__all__ = ["HotFirst"]

_LEARN_BATCHES = 16


class _HotRows:
    """The hot rows of one table.

    Args:
        num_rows: rows of the table.
        capacity: the most that are hot.

    Attributes:
        is_hot: (R,) whether a row is hot.
        moved: rows that moved in both directions.
        moved_plain: the same if every batch fetches its distinct rows and writes them back.
    """

    def __init__(self, num_rows: int, capacity: int) -> None:
        self.is_hot, self._counts = np.zeros(num_rows, np.bool_), np.zeros(num_rows, np.int64)
        self._capacity = capacity
        self.moved = self.moved_plain = 0

    def learn(self) -> None:
        """The rows that were read most often become hot; those that come are fetched, those that go written back."""
        top = np.argsort(-self._counts, kind="stable")[: self._capacity]  # ties go to low numbers, so that few move
        is_hot = np.zeros_like(self.is_hot)
        is_hot[top[self._counts[top] > 0]] = True
        self.moved += int(np.count_nonzero(is_hot != self.is_hot))
        self.is_hot = is_hot

    def step(self, reads: Ids) -> None:
        """Counts what moves for a step that reads rows (N,)."""
        rows = np.unique(reads)
        self.moved += 2 * int(np.count_nonzero(~self.is_hot[rows]))

    def batch(self, reads: Ids) -> None:
        """Counts the reads (N,) of a batch of the plain run."""
        self.moved_plain += 2 * len(np.unique(reads))
        self._counts += np.bincount(reads, minlength=len(self._counts))

    def finish(self) -> None:
        """Writes back the hot rows."""
        self.moved += int(np.count_nonzero(self.is_hot))


class HotFirst(Schedule):
    """Orders the records of a run.

    Args:
        method: its lookups must depend on the words alone.
        words: (N, F) keys or ids of all rows.
        batches: the rows of each batch.
        window: L, the batches after the present one that are known.
        hot_share: the share of each table's rows that lie with the trainer.
    """

    def __init__(
        self, method: RowTables, words: npt.NDArray[Any], batches: Sequence[slice], window: int, hot_share: float
    ) -> None:
        super().__init__(())
        self._tables, self._window, self._num_batches = method.all_rows, window, len(batches)
        self._hot = [_HotRows(len(table.store.values), _capacity(table, hot_share)) for table in self._tables]
        self._num_hot_records = self._num_hot_steps = 0
        last_learned = 0
        for first in range(0, len(batches), window + 1):
            if first - last_learned >= _LEARN_BATCHES:
                last_learned = first
                for hot in self._hot:
                    hot.learn()
            group = batches[first : first + window + 1]
            self._plan(_reads(method, words[group[0].start : group[-1].stop]), group)
        for hot in self._hot:
            hot.finish()

    def _plan(self, reads: list[Ids], group: Sequence[slice]) -> None:
        """Adds the steps of consecutive batches, whose records read rows (N, k) of each table."""
        start, batch_rows = group[0].start, group[0].stop - group[0].start
        is_hot = np.ones(group[-1].stop - start, np.bool_)
        for hot, each in zip(self._hot, reads, strict=True):
            is_hot &= hot.is_hot[each].all(axis=1)
        parts = [start + np.flatnonzero(which) for which in (is_hot, ~is_hot)]
        steps: list[list[MicroBatch]] = [[part for part in parts if len(part)]]
        if self._window:
            steps = [[part[at : at + batch_rows]] for part in parts for at in range(0, len(part), batch_rows)]
            self._num_hot_steps += -(-len(parts[0]) // batch_rows)
        self._num_hot_records += len(parts[0])
        for step in steps:
            records = np.concatenate([np.asarray(part) for part in step]) - start
            for hot, each in zip(self._hot, reads, strict=True):
                hot.step(each[records].reshape(-1))
        for rows in group:
            for hot, each in zip(self._hot, reads, strict=True):
                hot.batch(each[rows.start - start : rows.stop - start].reshape(-1))
        self.steps += steps

    def counts(self) -> dict[str, Any]:
        """Rows and bytes that moved in both directions, with and without hot rows, and how many records are hot."""
        sizes = [full_row_bytes(table) for table in self._tables]
        return {
            "batches": self._window,
            "hot_rows": sum(int(np.count_nonzero(hot.is_hot)) for hot in self._hot),
            "hot_records": self._num_hot_records,
            "steps": len(self.steps),
            "steps_plain": self._num_batches,
            "steps_without_fetch": self._num_hot_steps,
            "rows_moved": sum(hot.moved for hot in self._hot),
            "rows_moved_plain": sum(hot.moved_plain for hot in self._hot),
            "bytes_moved": sum(size * hot.moved for size, hot in zip(sizes, self._hot, strict=True)),
            "bytes_moved_plain": sum(size * hot.moved_plain for size, hot in zip(sizes, self._hot, strict=True)),
        }


def _capacity(table: Rows, hot_share: float) -> int:
    return max(1, int(hot_share * table.padding))


def _reads(method: RowTables, words: npt.NDArray[Any]) -> list[Ids]:
    """The rows (N, k) of each table that records (N,) read."""
    none = np.empty((len(words), 0), np.int64)
    return [
        np.concatenate([none, *(each.reshape(len(words), -1) for each in lookups)], axis=1).astype(np.int64)
        for lookups in record(method, words)
    ]
