"""`HotSetCollision`: TorchRec's managed collision, whose remapping is the hot set of the assignments topic.

The rows of a table, row-wise sharded over R ranks, the rows of each rank together:

    rank 0  [ unique rows of its shards | shared rows ]    rank 1  [ unique rows | shared rows ]    ...

TorchRec sends an id to a rank by its range. The hash by which a key's shard is found is a one-to-one map of keys, and
each shard is a range of it, so its upper 63 bits are the id: every rank gets the keys of its shards, whose unique rows
it has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.modules.mc_modules import ManagedCollisionModule
from torchrec.sparse.jagged_tensor import JaggedTensor

from sketch.changes import Changes
from sketch.hashing import SHARD_SEED, mix64_array
from sketch.tiertable import TierTable
from trainer.embedding.gathers import mix64_tensor
from trainer.errors import CheckpointError, PlanError

__all__ = ["HotSetCollision", "migrate"]

Features = dict[str, JaggedTensor]
_NO_OWNER = -1
_MAX_ID = (1 << 63) - 1
_SEED = int(SHARD_SEED)  # below 2^63


class HotSetCollision(ManagedCollisionModule):
    """Maps a hot feature to its unique row, and every other one to a shared row of its rank.

    Nothing is counted here: the agents decide what is hot, and `migrate` follows them, between steps and on every rank
    with the same changes. TorchRec then resets the rows that have got another owner, with their optimizer state; a
    feature that becomes hot starts from the table's `init_fn` (`AdaptiveEmbedding` keeps its vector).

    The state has the owner of each row. Load it into a table that is sharded alike, make another follower, and give its
    changes, of which the first are the whole hot set: rows whose owner is the same keep their values.

    Args:
        capacity: the unique rows, as many as the agents have.
        shared_rows: the rows of all other features; the table has `capacity + shared_rows` rows.
        num_shards: the partitions of the assignments topic, a multiple of the ranks.
        device: the device of the ids.
        output_range: the first row of this rank, and the one after its last; set by TorchRec when it shards the table.
        output_segments: the first row of each rank, and the number of rows.

    Raises:
        PlanError: the shards cannot be divided among the ranks, or a rank has no shared row.
    """

    def __init__(
        self,
        capacity: int,
        shared_rows: int,
        *,
        num_shards: int,
        device: torch.device | None = None,
        output_range: tuple[int, int] | None = None,
        output_segments: list[int] | None = None,
    ) -> None:
        begin, end = output_range or (0, capacity + shared_rows)
        segments = output_segments or [begin, end]
        super().__init__(device=device or torch.device("cpu"), output_segments=segments)
        rank, num_ranks = segments.index(begin), len(segments) - 1
        if num_shards % num_ranks:
            raise PlanError(f"num_shards: got {num_shards}, expected a multiple of the {num_ranks} ranks")
        self._sizes: dict[str, int] = {"capacity": capacity, "shared_rows": shared_rows, "num_shards": num_shards}
        self._begin, self._num_rows, self._num_ranks = begin, end - begin, num_ranks
        self._first_unique = capacity * rank // num_ranks
        self._num_unique = capacity * (rank + 1) // num_ranks - self._first_unique
        self._num_shared = self._num_rows - self._num_unique
        if self._num_shared < 1:
            raise PlanError(
                f"shared_rows: got {shared_rows}, with which rank {rank} has none beside its {self._num_unique} unique "
                f"rows, expected at least {2 * num_ranks}"
            )
        self.register_buffer("_owners", torch.full((self._num_rows,), _NO_OWNER, dtype=torch.int64, device=self.device))
        self._segments = self._output_segments_tensor.clone()
        self._evicted: Tensor | None = None
        self._table = TierTable()
        self._index()

    def migrate(self, changes: Changes) -> int:
        """Follows changes of the hot set; returns the number of this rank's rows that have got another owner."""
        self._table.apply(changes)
        keys, rows = self._table.unsorted_items()
        is_mine = (rows >= self._first_unique) & (rows < self._first_unique + self._num_unique)
        owners = np.full(self._num_rows, _NO_OWNER, np.int64)
        ids = mix64_array(keys[is_mine] ^ SHARD_SEED) >> np.uint64(1)
        owners[rows[is_mine] - self._first_unique] = ids.astype(np.int64)
        new = torch.from_numpy(owners).to(self.device)
        slots = torch.nonzero((new != self._owners) & (new != _NO_OWNER)).view(-1) + self._begin
        self._owners.copy_(new)
        self._index()
        if len(slots):
            self._evicted = slots if self._evicted is None else torch.unique(torch.cat([self._evicted, slots]))
        return len(slots)

    def _index(self) -> None:
        """Sorts the ids of the hot features, for `remap`."""
        if self._owners.is_meta:
            return
        slots = torch.nonzero(self._owners != _NO_OWNER).view(-1)
        self._ids, order = torch.sort(self._owners[slots])
        self._slots = slots[order] + self._begin

    def preprocess(self, features: Features) -> Features:
        """The ids (0 to 2^63 - 1) of feature keys (int64 with the bits of uint64)."""
        return {name: _with_values(jagged, _ids_of(jagged.values())) for name, jagged in features.items()}

    def profile(self, features: Features) -> Features:
        """The features: the agents count, not this module."""
        return features

    @torch.no_grad()
    def remap(
        self,
        features: Features,
        mutate_miss_lengths: bool = True,  # noqa: ARG002  every feature has a row, so no length changes
        write_weights: Tensor | None = None,  # noqa: ARG002  for modules that write rows
    ) -> Features:
        """The rows of ids."""
        return {name: _with_values(jagged, self._rows_of(jagged.values())) for name, jagged in features.items()}

    def _rows_of(self, ids: Tensor) -> Tensor:
        shared = self._begin + self._num_unique + ids % self._num_shared
        if not len(self._ids):
            return shared
        index = torch.searchsorted(self._ids, ids).clamp_(max=len(self._ids) - 1)
        return torch.where(self._ids[index] == ids, self._slots[index], shared)

    def forward(self, features: Features, mutate_miss_lengths: bool = True) -> Features:
        """The rows of feature keys."""
        return self.remap(self.profile(self.preprocess(features)), mutate_miss_lengths)

    def evict(self) -> Tensor | None:
        """The rows to reset: those that have got another owner since the last call; None if there are none."""
        evicted, self._evicted = self._evicted, None
        return evicted

    def output_size(self) -> int:
        """The rows of this rank; of the whole table before it is sharded."""
        return self._num_rows

    def input_size(self) -> int:
        """The range of the ids."""
        return _MAX_ID

    def buckets(self) -> int:
        """The number of ranks."""
        return self._num_ranks

    def open_slots(self) -> Tensor:
        """(1,) the number of unique rows without an owner."""
        return torch.tensor([self._num_unique - len(self._ids)], device=self.device)

    def validate_state(self) -> None:
        """Makes a loaded state that of this rank; the table is that of the next changes.

        Raises:
            CheckpointError: the state is that of a table that was sharded over another number of ranks.
        """
        is_mine = torch.equal(self._output_segments_tensor, self._segments)
        self._output_segments_tensor.copy_(self._segments)
        if not is_mine:
            raise CheckpointError(
                f"the rows {self._begin} to {self._begin + self._num_rows - 1} were sharded over other ranks: shard "
                "the table as it was, or load the checkpoint without the state of the collision module"
            )
        self._table = TierTable()
        self._index()

    def rebuild_with_output_id_range(
        self, output_id_range: tuple[int, int], output_segments: list[int], device: torch.device | None = None
    ) -> HotSetCollision:
        """The module of a rank, which has these rows."""
        return HotSetCollision(
            **self._sizes,
            device=device or self.device,
            output_range=output_id_range,
            output_segments=output_segments,
        )


def migrate(model: nn.Module, changes: Changes) -> int:
    """Follows changes of the hot set in every collision module of a model; returns the rows that have another owner."""
    return sum(module.migrate(changes) for module in model.modules() if isinstance(module, HotSetCollision))


def _ids_of(keys: Tensor) -> Tensor:
    return (mix64_tensor(keys ^ _SEED) >> 1) & _MAX_ID


def _with_values(jagged: Any, values: Tensor) -> JaggedTensor:
    return JaggedTensor(
        values=values, lengths=jagged.lengths(), offsets=jagged.offsets(), weights=jagged.weights_or_none()
    )
