"""`KeyExchange`: tells the ranks which rows the others will read, for this step, or ahead while one computes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sketch.hashing import shard_of
from streams.errors import InvariantError
from trainer.embedding.lookup import distinct
from trainer.ranks.group import Ranks

__all__ = ["Exchanged", "KeyExchange"]


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """The keys of N lookups of this rank, of which U are distinct, and the R keys that the ranks ask this one for.

    Attributes:
        keys: (U,) int64, by owner, then by shard.
        inverse: (N,) int32, the key of each lookup.
        sent: the number of keys that went to each rank.
        received: the number of keys that came from each rank.
        asked: (R,) int64.
        shards: (R,) int64, their shards.
        rows_in_all: the rows of all ranks.
    """

    keys: Tensor
    inverse: npt.NDArray[np.int32]
    sent: Sequence[int]
    received: Sequence[int]
    asked: npt.NDArray[np.int64]
    shards: npt.NDArray[np.int64]
    rows_in_all: int


class KeyExchange:
    """Exchanges keys; every call is a collective.

    Keys that are sent ahead travel in a thread and by connections of their own, so that other collectives run beside
    them. They are the same bits either way: whose keys they are depends on the number of shards alone.

    Args:
        num_shards: S.
        ranks: this rank and the others.
    """

    def __init__(self, num_shards: int, ranks: Ranks) -> None:
        self._num_shards, self._ranks = num_shards, ranks
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keys")
        self._ahead: tuple[npt.NDArray[np.int64], int, Future[Exchanged]] | None = None

    def send_ahead(self, keys: npt.NDArray[np.int64], batch_rows: int) -> None:
        """Sends the keys (N,) of a batch, which is that of the next `exchange`; does not wait."""
        self._ahead = keys, batch_rows, self._thread.submit(self._exchange, keys, batch_rows, self._ranks.beside())

    def drop(self) -> None:
        """Waits for keys that were sent ahead, of a step that is not made."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead[2].result()

    def exchange(self, keys: npt.NDArray[np.int64], batch_rows: int) -> Exchanged:
        """Exchanges the keys (N,) of a batch, or waits for them if they were sent ahead.

        Raises:
            InvariantError: the keys of another batch were sent ahead.
            RankError: another rank has ended.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return self._exchange(keys, batch_rows, self._ranks)
        sent, rows, exchanged = ahead
        found = exchanged.result()
        if rows != batch_rows or not np.array_equal(sent, keys):
            raise InvariantError(f"a step of {batch_rows} rows: the keys of another one, of {rows}, were sent ahead")
        return found

    def _exchange(self, keys: npt.NDArray[np.int64], batch_rows: int, ranks: Ranks) -> Exchanged:
        num_shards, world = self._num_shards, ranks.world
        words, inverse = distinct(keys.view(np.uint64))
        shards = shard_of(words, num_shards)
        order = np.lexsort((shards, shards % world))  # by owner, then by shard
        place = np.empty(len(words), np.int32)
        place[order] = np.arange(len(words), dtype=np.int32)
        counts = np.bincount(shards, minlength=num_shards)  # (S,)
        every = np.array(ranks.gather([batch_rows, *counts.tolist()]))  # (ranks, 1 + S)
        by_rank = [int(counts[owner::world].sum()) for owner in range(world)]
        mine = every[:, 1 + ranks.rank :: world]  # (ranks, own shards)
        received = mine.sum(axis=1).tolist()
        ordered = torch.from_numpy(words[order].view(np.int64))
        own_shards = np.arange(ranks.rank, num_shards, world)
        return Exchanged(
            keys=ordered,
            inverse=place[inverse],
            sent=by_rank,
            received=received,
            asked=ranks.swap(ordered, by_rank, received).numpy(),
            shards=np.repeat(np.tile(own_shards, world), mine.reshape(-1)),
            rows_in_all=int(every[:, 0].sum()),
        )
