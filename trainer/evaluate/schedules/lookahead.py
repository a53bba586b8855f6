"""`Lookahead`: trains in a cache of the rows that the coming batches read (BagPipe, SOSP'23), and counts what moves.

    before batch b    rows of b that are not in the cache are fetched: values and optimizer sums
    after batch b     rows that none of the next L batches reads are written back, and leave

Without it every batch fetches its distinct rows and writes them back: L = 0. The plan of batch b depends on the batches
b to b + L alone. Guarantee: the same weights, bit for bit, as a row is in one place at a time and moves as it is. That
holds for float32 rows; other formats round by the number of a row, which is another one in the cache.

Kept of the paper: what is fetched and what leaves. Not kept: the overlap with training on other machines. This counts
rows and bytes; it does not measure time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainer.embedding.stores.rows import RowSizes, RowStore
from trainer.evaluate.methods.row_tables import RowNumbers, RowTables
from trainer.evaluate.schedules.schedule import Ids, Schedule, full_row_bytes, record

__all__ = ["Lookahead", "RowCache", "why_no_cache"]


def why_no_cache(method: RowTables) -> str | None:
    """Why the rows of a method cannot be trained in a cache; None if they can."""
    if any(table.store.values.dtype != torch.float32 for table in method.all_rows):
        return "lookahead: rows that are rounded by their number are not exact in a cache; expected float32"
    return None


class RowCache:
    """A store of at most `capacity` rows of a table.

    Args:
        host: the store of all rows.
        capacity: rows at a time.
    """

    def __init__(self, host: RowStore, capacity: int) -> None:
        sizes = RowSizes(num_rows=capacity, dim=host.dim, optimizer=host.sizes.optimizer, is_padded=True)
        self.store = type(host)(sizes, optimizer=host.optimizer, initial=torch.Generator().manual_seed(0))
        self._host = host
        self._slots = np.full(len(host.values), -1, np.int64)
        self._free = np.arange(capacity)

    def slots(self, rows: RowNumbers) -> Ids:
        """As `Cache.slots`."""
        found: Ids = self._slots[rows]
        assert (found >= 0).all()  # noqa: S101  the plan has every row of a batch
        return found

    def fetch(self, rows: Ids) -> None:
        """Copies distinct rows (K,) that are not in the cache into it."""
        slots, self._free = self._free[: len(rows)], self._free[len(rows) :]
        self._slots[rows] = slots
        for mine, theirs in zip(self.store.arrays, self._host.arrays, strict=True):
            if len(mine):
                mine[slots] = theirs[rows]

    def write_back(self, rows: Ids) -> None:
        """Copies rows (K,) of the cache to the table, and frees their slots."""
        slots = self.slots(rows)
        for mine, theirs in zip(self.store.arrays, self._host.arrays, strict=True):
            if len(mine):
                theirs[rows] = mine[slots]
        self._slots[rows] = -1
        self._free = np.concatenate([self._free, slots])


class _Plan:
    """What moves between a table and its cache.

    Attributes:
        fetched: the rows of each batch that are fetched before it.
        left: the rows that are written back after it.
        num_plain: rows that move in one direction without a cache.
        peak: the most rows in the cache.
    """

    def __init__(self, reads: Sequence[Ids], num_rows: int, window: int) -> None:
        uses, is_held = np.zeros(num_rows, np.int64), np.zeros(num_rows, np.bool_)  # uses by the batches of the window
        self.fetched, self.left, held, self.peak = list[Ids](), list[Ids](), 0, 1
        for rows in reads[:window]:
            uses[rows] += 1
        for number, rows in enumerate(reads):
            if number + window < len(reads):
                uses[reads[number + window]] += 1
            uses[rows] -= 1  # from here on those of the batches after this one
            fetched, left = rows[~is_held[rows]], rows[uses[rows] == 0]
            is_held[fetched], is_held[left] = True, False
            self.fetched.append(fetched)
            self.left.append(left)
            held += len(fetched)
            self.peak = max(self.peak, held)
            held -= len(left)
        self.num_plain = sum(map(len, reads))


class Lookahead(Schedule):
    """Feeds the tables of a method.

    Args:
        method: its lookups must depend on the words alone.
        words: (N, F) keys or ids of all rows.
        batches: the rows of each batch.
        window: L, the batches after the present one that are known.
    """

    def __init__(self, method: RowTables, words: npt.NDArray[Any], batches: Sequence[slice], window: int) -> None:
        super().__init__(batches)
        self._tables = method.all_rows
        reads = _distinct_reads(method, words, batches)
        self._plans = [
            _Plan(each, len(table.store.values), window) for each, table in zip(reads, self._tables, strict=True)
        ]
        for table, plan in zip(self._tables, self._plans, strict=True):
            table.cache = RowCache(table.store, plan.peak)
        self.window = window

    def fetch(self, number: int) -> None:
        """As `Schedule.fetch`."""
        for table, plan in zip(self._tables, self._plans, strict=True):
            assert isinstance(table.cache, RowCache)  # noqa: S101
            table.cache.fetch(plan.fetched[number])

    def write_back(self, number: int) -> None:
        """As `Schedule.write_back`."""
        for table, plan in zip(self._tables, self._plans, strict=True):
            assert isinstance(table.cache, RowCache)  # noqa: S101
            table.cache.write_back(plan.left[number])

    def counts(self) -> dict[str, int]:
        """Rows and bytes that moved in both directions, with and without the cache, and the cache's most rows."""
        pairs = list(zip(self._tables, self._plans, strict=True))
        moved = [sum(map(len, plan.fetched)) + sum(map(len, plan.left)) for _, plan in pairs]
        plain = [2 * plan.num_plain for _, plan in pairs]
        sizes = [full_row_bytes(table) for table, _ in pairs]
        return {
            "batches": self.window,
            "rows_moved": sum(moved),
            "rows_moved_plain": sum(plain),
            "bytes_moved": sum(size * count for size, count in zip(sizes, moved, strict=True)),
            "bytes_moved_plain": sum(size * count for size, count in zip(sizes, plain, strict=True)),
            "peak_rows": sum(plan.peak for _, plan in pairs),
        }


def _distinct_reads(method: RowTables, words: npt.NDArray[Any], batches: Sequence[slice]) -> list[list[Ids]]:
    """The distinct rows of each table that each batch reads."""
    reads: list[list[Ids]] = [[] for _ in method.all_rows]
    for rows in batches:
        for looked_up, each in zip(record(method, words[rows]), reads, strict=True):
            every = [one.reshape(-1) for one in looked_up] or [np.empty(0, np.int64)]
            each.append(np.unique(np.concatenate(every)).astype(np.int64))
    return reads
