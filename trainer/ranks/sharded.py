"""`ShardedEmbedding`: the slices of some shards, each an `AdaptiveEmbedding` of its own.

    keys, grouped by shard --> the slice of each shard --> vectors (N, D), in the same order

No slice reads or learns from another's keys, so what it holds depends on the clicks alone, and not on which other
shards are here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sketch.changes import Changes
from sketch.hashing import shard_of
from sketch.keymap import ABSENT
from streams.assignments.row_ranges import rows_of_shard
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.lookup import Lookup
from trainer.embedding.migration import MigrationReport
from trainer.embedding.plans import EmbeddingPlan
from trainer.embedding.stores.rows import RowOptimizer
from trainer.errors import CapacityError, CheckpointError
from trainer.ranks.slices import seed_of_shard, slice_plan

__all__ = ["ShardedEmbedding", "ShardedLookup"]


@dataclass(frozen=True, kw_only=True)
class ShardedLookup:
    """N lookups in the slices.

    Attributes:
        by_shard: the lookups of each shard that has any.
        counts: their numbers, in the same order.
        order: (N,) int64 on the device, the position of each lookup, shard by shard.
    """

    by_shard: Mapping[int, Lookup]
    counts: Sequence[int]
    order: Tensor


class ShardedEmbedding:
    """The slices of some shards.

    Args:
        plan: the sizes of all shards together.
        num_shards: S.
        shards: those that are here.
        optimizer: the hyperparameters of the rows' optimizer.
        seed: the seed of initial values and stochastic rounding.
        device: the device of the rows.

    Raises:
        PlanError: there are fewer unique rows than shards.
    """

    def __init__(
        self,
        plan: EmbeddingPlan,
        num_shards: int,
        shards: Sequence[int],
        *,
        optimizer: RowOptimizer | None = None,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.plan, self.num_shards = plan, num_shards
        self.device = device or torch.device("cpu")
        self.slices = {
            shard: AdaptiveEmbedding(
                slice_plan(plan, num_shards, shard),
                optimizer=optimizer,
                seed=seed_of_shard(seed, shard),
                device=self.device,
            )
            for shard in shards
        }

    @property
    def num_hot(self) -> int:
        """The number of hot keys of these shards."""
        return sum(part.num_hot for part in self.slices.values())

    @property
    def nbytes(self) -> dict[str, int]:
        """The bytes of these slices, as `AdaptiveEmbedding.nbytes`."""
        total: Counter[str] = Counter()
        for part in self.slices.values():
            total.update(part.nbytes)
        return dict(total)

    @torch.no_grad()
    def look_up(
        self, keys: npt.NDArray[np.int64], shards: npt.NDArray[np.int64], rows: int
    ) -> tuple[Tensor, ShardedLookup]:
        """The vectors (N, D) of the words of keys (N,), and what `learn` needs.

        Args:
            keys: any number of times each.
            shards: (N,) their shards, which are all here.
            rows: B, the rows over which the loss is a mean.
        """
        order = np.argsort(shards, kind="stable")
        present, counts = np.unique(shards, return_counts=True)
        by_shard, vectors, start = {}, [], 0
        for shard, count in zip(present.tolist(), counts.tolist(), strict=True):
            own = torch.from_numpy(keys[order[start : start + count]]).to(self.device)
            by_shard[shard] = self.slices[shard].look_up(own, rows)
            vectors.append(self.slices[shard].gather(by_shard[shard]))
            start += count
        where = torch.from_numpy(order).to(self.device)
        out = torch.empty(len(keys), self.plan.dim, device=self.device)
        if vectors:
            out[where] = torch.cat(vectors)
        return out, ShardedLookup(by_shard=by_shard, counts=counts.tolist(), order=where)

    @torch.no_grad()
    def learn(self, lookup: ShardedLookup, gradient: Tensor) -> None:
        """One step on all rows that were read, with the gradient (N, D) at their vectors.

        Every slice counts the step, whether it was read or not: stochastic rounding depends on the number of steps.
        """
        parts = torch.split(gradient[lookup.order], list(lookup.counts))
        for (shard, own), part in zip(lookup.by_shard.items(), parts, strict=True):
            self.slices[shard].capture(own, part.contiguous())
        for each in self.slices.values():
            each.learn()

    def migrate(self, changes: Changes) -> MigrationReport:
        """Applies changes of these shards' keys, as `AdaptiveEmbedding.migrate`.

        Raises:
            CapacityError: a change names a row that its shard does not have; nothing was changed.
        """
        shards = shard_of(changes.key, self.num_shards)
        parts = [(shard, self._of_shard(changes, shards, shard)) for shard in np.unique(shards).tolist()]
        totals: Counter[str] = Counter()
        for shard, part in parts:
            totals.update(vars(self.slices[shard].migrate(part)))
        return MigrationReport(**totals)

    def _of_shard(self, changes: Changes, shards: npt.NDArray[np.int64], shard: int) -> Changes:
        """The changes of a shard, with its own row numbers."""
        is_own = shards == shard
        first, count = rows_of_shard(self.plan.capacity_rows, self.num_shards, shard)
        part = replace(changes, key=changes.key[is_own], row=changes.row[is_own], score=changes.score[is_own])
        is_foreign = part.is_hot & ((part.row < first) | (part.row >= first + count))
        if is_foreign.any():
            raise CapacityError(
                f"an assignment of shard {shard} names unique row {part.row[is_foreign][0]}, expected {first} to "
                f"{first + count - 1}: the agents have another capacity; start all with the same --capacity"
            )
        return replace(part, row=np.where(part.is_hot, part.row - first, part.row).astype(np.int32))

    def rows_of(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        """Whether each of the keys (K,) whose shard is here is hot: its row within the shard, or `ABSENT`; (K',)."""
        shards = shard_of(keys, self.num_shards)
        found = [part.router.values(keys[shards == shard]) for shard, part in self.slices.items()]
        return np.concatenate(found) if found else np.full(0, ABSENT, np.int32)

    def tensors(self, *, is_sorted: bool) -> dict[str, Tensor]:
        """The complete state by name, `SHARD.NAME`."""
        return {
            f"{shard}.{name}": tensor
            for shard, part in self.slices.items()
            for name, tensor in (part.tensors() if is_sorted else part.unsorted_tensors()).items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the state of these shards from the results of `tensors` of any ranks.

        Raises:
            CheckpointError: a shard is missing, or has other sizes.
        """
        for shard, part in self.slices.items():
            start = f"{shard}."
            own = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
            if not own:
                raise CheckpointError(f"the checkpoint has no shard {shard}")
            part.load_tensors(own)
