"""`RankedEmbedding`: an embedding whose rows are spread over the ranks; a key belongs to the owner of its shard.

    this rank's keys (N,) --distinct--> (U,) --to their owners--> slices --vectors back--> (N, D) --> model, loss
    gradient (N, D) --summed by key--> (U, D) --to the owners--> slices: one step on the rows

N lookups of this rank, U distinct keys among them, R keys that the ranks ask this one for, D values a row. The loss is
a mean over the rows of all ranks, whose gradients the owners see; each rank scores the keys of its own click records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sketch.changes import Changes
from trainer.embedding.key_embedding import FollowingEmbedding
from trainer.embedding.lookup import Lookup, Scores
from trainer.embedding.migration import MigrationReport
from trainer.embedding.plans import EmbeddingPlan
from trainer.embedding.scores import score_records
from trainer.embedding.stores.kernels import row_kernels
from trainer.embedding.stores.rows import RowOptimizer
from trainer.errors import GradientError
from trainer.ranks.group import Ranks
from trainer.ranks.key_exchange import KeyExchange
from trainer.ranks.sharded import ShardedEmbedding, ShardedLookup

__all__ = ["RankedEmbedding", "RankedLookup"]


@dataclass(frozen=True, kw_only=True)
class RankedLookup(Lookup):
    """The lookups of this rank, whose vectors other ranks have, and what this rank has for the others.

    Attributes:
        num_keys: U.
        which: (N,) int64 on the device, the key of each lookup.
        sent: the number of keys that went to each rank.
        received: the number of keys that came from each rank.
        asked: (R,) int64, the keys that this rank looked up for all.
        served: their lookups.
        found: (R, D) the vectors that it found.
        rows_in_all: the rows of all ranks, over which the loss is a mean.
    """

    num_keys: int
    which: Tensor
    sent: Sequence[int]
    received: Sequence[int]
    asked: npt.NDArray[np.int64]
    served: ShardedLookup
    found: Tensor
    rows_in_all: int


class RankedEmbedding(FollowingEmbedding):
    """The embedding of one of several ranks.

    Each lookup and each `learn` is a collective: every rank calls it, one without clicks with keys of shape (0, F).

    Args:
        plan: the sizes of all shards together.
        num_shards: S; the shards with a number r modulo the number of ranks are rank r's.
        ranks: this rank and the others.
        optimizer: the hyperparameters of the rows' optimizer.
        seed: the seed of initial values and stochastic rounding.
        device: the device of the rows.

    Attributes:
        local: the slices of this rank's shards.
        exchange: which keys the ranks ask each other for.
        on_learned: called by `learn` with the keys (R,) uint64 whose rows this rank updated, some of them several
            times, and the norms (R,) of their gradients; None for nothing.

    Raises:
        PlanError: there are fewer unique rows than shards.
    """

    def __init__(
        self,
        plan: EmbeddingPlan,
        num_shards: int,
        ranks: Ranks,
        *,
        optimizer: RowOptimizer | None = None,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(plan, device=device)
        self._ranks = ranks
        self.on_learned: Callable[[npt.NDArray[np.uint64], npt.NDArray[np.float32]], None] | None = None
        self.exchange = KeyExchange(num_shards, ranks)
        shards = [shard for shard in range(num_shards) if ranks.owns(shard)]
        self.local = ShardedEmbedding(plan, num_shards, shards, optimizer=optimizer, seed=seed, device=self.device)

    @property
    def num_hot(self) -> int:
        """The number of hot keys of this rank's shards."""
        return self.local.num_hot

    @property
    def nbytes(self) -> dict[str, int]:
        """The bytes of this rank's shards."""
        return self.local.nbytes

    @property
    def rows_in_all(self) -> int:
        """The rows of all ranks in the pass whose gradient was captured last."""
        if not self._captured or not isinstance(lookup := self._captured[-1][0], RankedLookup):
            raise GradientError("no pass was captured")
        return lookup.rows_in_all

    def look_up(self, keys: Tensor, batch_rows: int) -> Lookup:
        """Sends the distinct keys of (N,) int64 to their owners, and looks up what the ranks ask this one for."""
        exchanged = self.exchange.exchange(keys.cpu().numpy(), batch_rows)
        found, served = self.local.look_up(exchanged.asked, exchanged.shards, exchanged.rows_in_all)
        is_host = self.device.type == "cpu"
        return RankedLookup(
            keys=exchanged.keys if is_host else keys,
            reads={},
            num_lookups=len(keys),
            batch_rows=batch_rows,
            inverse=exchanged.inverse if is_host else None,
            num_keys=len(exchanged.keys),
            which=torch.from_numpy(exchanged.inverse.astype(np.int64)).to(self.device),
            sent=exchanged.sent,
            received=exchanged.received,
            asked=exchanged.asked,
            served=served,
            found=found,
            rows_in_all=exchanged.rows_in_all,
        )

    def gather(self, lookup: Lookup) -> Tensor:
        """The vectors (N, D) of this rank's lookups, which their owners send."""
        assert isinstance(lookup, RankedLookup)  # noqa: S101  `look_up` made it
        vectors = self._ranks.swap(lookup.found, lookup.received, lookup.sent)  # (U, D)
        return vectors.index_select(0, lookup.which)

    @torch.no_grad()
    def learn(self, accept: Tensor | None = None) -> Scores:
        """Updates the rows that all ranks' last pass read; returns the scores of this rank's keys.

        Args:
            accept: None; ranks agree on what counts before they learn.

        Raises:
            GradientError: not exactly one pass was captured, or there is an `accept`.
        """
        single = self.take_single_pass()
        if single is None or accept is not None:
            raise GradientError("ranks learn after each pass, and agree before whether it counts")
        lookup, gradient = single
        assert isinstance(lookup, RankedLookup)  # noqa: S101  `look_up` made it
        sums, scores = self._merge_by_key(lookup, gradient)
        sums *= lookup.batch_rows / lookup.rows_in_all  # of the mean over this rank's rows: of that over all
        gradients = self._ranks.swap(sums, lookup.sent, lookup.received)  # (R, D)
        self.local.learn(lookup.served, gradients)
        if self.on_learned is not None:
            norms = gradients.norm(dim=1) * lookup.rows_in_all
            self.on_learned(lookup.asked.view(np.uint64), norms.cpu().numpy())
        return scores

    def _merge_by_key(self, lookup: RankedLookup, gradient: Tensor) -> tuple[Tensor, Scores]:
        """The gradient (N, D) summed by key (U, D), and the scores of the keys of each click record."""
        by_record = score_records(lookup, gradient)
        sums = torch.zeros(lookup.num_keys, self.plan.dim, device=self.device)
        if self.device.type == "cpu":
            scores, factor = np.zeros(lookup.num_keys, np.float32), np.float32(lookup.batch_rows)
            row_kernels(self.plan.dim).merge(gradient.numpy(), lookup.inverse, sums.numpy(), factor, scores)
            return sums, by_record or Scores(keys=lookup.keys, scores=torch.from_numpy(scores))
        sums.index_add_(0, lookup.which, gradient)
        norms = gradient.norm(dim=1) * lookup.batch_rows
        summed = torch.zeros(lookup.num_keys, device=self.device).index_add_(0, lookup.which, norms)
        keys = torch.zeros(lookup.num_keys, dtype=torch.int64, device=self.device)
        keys[lookup.which] = lookup.keys
        return sums, by_record or Scores(keys=keys, scores=summed)

    def migrate(self, changes: Changes) -> MigrationReport:
        """Follows changes of this rank's shards; no collective.

        Raises:
            CapacityError: a change names a row that its shard does not have.
            GradientError: captured gradients have not been applied.
        """
        if self.has_captured:
            raise GradientError("there are captured gradients: call learn before migrate")
        return self.local.migrate(changes)

    def rows_of(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        """As `ShardedEmbedding.rows_of`."""
        return self.local.rows_of(keys)

    def tensors(self) -> dict[str, Tensor]:
        """The complete state of this rank's shards, with the hot keys in ascending order."""
        return self.local.tensors(is_sorted=True)

    def unsorted_tensors(self) -> dict[str, Tensor]:
        """As `tensors`, unsorted."""
        return self.local.tensors(is_sorted=False)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores this rank's shards from the `tensors` of any ranks.

        Raises:
            CheckpointError: a shard is missing, or has other sizes.
        """
        self.local.load_tensors(tensors)
        self.zero_grad()
