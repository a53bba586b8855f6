"""`AdaptiveEmbedding`: a router in front of a store of unique rows and a store of shared rows.

    keys (B, F) --router--> hot:    a row of `unique`
                            others: a sum of rows of `shared`    --times gates--> vectors (B, F, D)

A promotion reads a vector from the shared store and writes it into the unique store. The importance of a key is the
norm of the gradient at its vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sketch.changes import Changes
from trainer.embedding import gathers, kernels
from trainer.embedding.backends import Backend, backend_of_tables
from trainer.embedding.captured import Touched
from trainer.embedding.gate import Gate
from trainer.embedding.key_embedding import FollowingEmbedding
from trainer.embedding.lookup import Importance, Lookup, Scores, distinct
from trainer.embedding.migration import MigrationReport, resolve
from trainer.embedding.plans import EmbeddingPlan
from trainer.embedding.router import Router
from trainer.embedding.scores import score_records
from trainer.embedding.stores.kernels import row_kernels
from trainer.embedding.stores.rows import RowOptimizer, RowStore
from trainer.embedding.stores.store import Reads, Store
from trainer.embedding.stores.two_level import TwoLevelRows
from trainer.embedding.tier_moves import TierMoves
from trainer.embedding.tiers import build_stores
from trainer.embedding.transfers import to_device
from trainer.errors import CheckpointError, GradientError

if TYPE_CHECKING:
    from trainer.embedding.fused.body import FusedTiers

__all__ = ["AdaptiveEmbedding"]

_UNIQUE, _SHARED = "unique", "shared"


class AdaptiveEmbedding(FollowingEmbedding):
    """An embedding that follows the hot set.

    Guarantees:
        - A promotion keeps the vector of the key, for every field, but for one division by a gate and the rounding to
          nearest of a smaller format. Vectors of keys that no change names stay the same, except that of a former owner
          whose row was reassigned.
        - There are never more hot rows than the plan's capacity: a batch with a row beyond it is refused as a whole.
        - On a CPU a step is a deterministic function of state and batch, bit for bit.

    Usage, with any model and any optimizer for its dense part::

        vectors = embedding(keys)                    # (B, F, D)
        loss = criterion(model(dense, vectors), label)  # a mean over the batch
        loss.backward()
        optimizer.step()
        importance = embedding.apply_gradients()     # updates the rows that were read

    A step costs O(B F D), independent of the size of the table.
    """

    def __init__(
        self,
        plan: EmbeddingPlan,
        *,
        optimizer: RowOptimizer | None = None,
        seed: int = 0,
        device: torch.device | None = None,
        backend: Backend | None = None,
    ) -> None:
        super().__init__(plan, device=device, backend=backend)
        backend = backend_of_tables(self.backend)
        unique, shared = build_stores(
            plan, optimizer=optimizer or RowOptimizer(), seed=seed, device=self.device, backend=backend
        )
        self.stores = nn.ModuleDict({_UNIQUE: unique, _SHARED: shared})
        self._stores: dict[str, Store] = {_UNIQUE: unique, _SHARED: shared}  # found without a module's detours
        self._unique, self._shared = (unique,), (shared,)  # in tuples, which a module does not register
        self.router = Router(plan.layout, expected_keys=plan.router_keys, device=self.device, backend=backend)
        self.gate = Gate(plan.layout.num_fields, self.device)
        self._tiers = TierMoves(unique, shared, self.gate, is_numba=self.backend == "numba")
        self._fused = self._fuse() if self.backend == "triton" else None

    def _fuse(self) -> FusedTiers:
        from trainer.embedding.fused.body import FusedTiers  # noqa: PLC0415  needs Triton

        return FusedTiers(self.plan.layout, self.router, self.unique, self.shared, self.gate)

    @property
    def unique(self) -> RowStore:
        """The rows of hot keys."""
        return self._unique[0]

    @property
    def shared(self) -> TwoLevelRows:
        """The rows of all other keys."""
        return self._shared[0]

    @property
    def num_hot(self) -> int:
        """The number of hot keys."""
        return self.router.num_hot

    def hot_keys(self) -> npt.NDArray[np.uint64]:
        """The hot keys (K,) uint64 in ascending order; a follower of the topic takes those of a restored model."""
        return self.router.items()[0]

    def rows_of(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        """The unique row of each key (K,), negative for a key without one."""
        return self.router.values(keys)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes allocated by rows, optimizer, router and gate; `device` counts those on the device, `total` all."""
        router, stores = self.router.nbytes, [store.nbytes for store in self._stores.values()]
        table = {part: sum(store[part] for store in stores) for part in ("rows", "optimizer")}
        table["gate"] = self.gate.nbytes
        on_device = sum(table.values()) + (router["host"] if self.device.type == "cpu" else router["device"])
        total = sum(table.values()) + sum(router.values())
        return {**table, "router": sum(router.values()), "device": on_device, "total": total}

    def look_up(self, keys: Tensor, batch_rows: int) -> Lookup:
        """Routes (N,) int64 keys to the stores that serve them; on a CPU each distinct key once."""
        if self.backend == "numba":
            return self._look_up_numba(keys, batch_rows)
        return Lookup(
            keys=keys,
            reads={} if self._fused else self._reads_torch(keys),
            num_lookups=len(keys),
            batch_rows=batch_rows,
            routed=self._fused.route(keys) if self._fused else None,
            version=self.router.version,
        )

    def _look_up_numba(self, keys: Tensor, batch_rows: int) -> Lookup:
        words, inverse = distinct(keys.numpy().view(np.uint64))
        found = self.router.route(torch.from_numpy(words.view(np.int64))).numpy()
        ordered, rows, fields = np.empty_like(words), np.empty_like(found), np.empty(len(words), np.uint8)
        num_hot = kernels.order(words, found, inverse, np.empty_like(found), ordered, rows, fields)
        keys, (unique_gates, shared_gates) = torch.from_numpy(ordered.view(np.int64)), self.gate.arrays()
        addresses = self.shared.address(keys[num_hot:])
        return Lookup(
            keys=keys,
            reads={
                _UNIQUE: Reads(addresses=rows[:num_hot, None], fields=fields[:num_hot], gates=unique_gates),
                _SHARED: Reads(addresses=addresses, fields=fields[num_hot:], gates=shared_gates),
            },
            num_lookups=len(inverse),
            batch_rows=batch_rows,
            num_hot=num_hot,
            inverse=inverse,
            vectors=torch.empty(len(keys), self.plan.dim),
            version=self.router.version,
        )

    def _reads_torch(self, keys: Tensor) -> dict[str, Reads]:
        """What each lookup reads of each store, in shapes that do not depend on the data."""
        rows, fields = self.router.route(keys)[:, None].long(), gathers.field_indices(keys, self.plan.layout.num_fields)
        shared = torch.where(rows >= 0, -1, self.shared.address(keys))
        return {
            _UNIQUE: Reads(addresses=rows, fields=fields, gates=self.gate.unique),
            _SHARED: Reads(addresses=shared, fields=fields, gates=self.gate.shared),
        }

    def gather(self, lookup: Lookup) -> Tensor:
        """The vectors (N, D), times their gates."""
        if self._fused and lookup.routed:
            return self._fused.gather(lookup.routed)
        if lookup.vectors is None:
            out = torch.zeros(lookup.num_lookups, self.plan.dim, device=self.device)
            for name, reads in lookup.reads.items():
                self._stores[name].gather(reads, out)
            return out
        for (name, reads), vectors in zip(lookup.reads.items(), lookup.by_store(lookup.vectors), strict=True):
            self._stores[name].gather(reads, vectors)
        out = torch.empty(lookup.num_lookups, self.plan.dim)
        row_kernels(self.plan.dim).spread(lookup.vectors.numpy(), lookup.inverse, out.numpy())
        return out

    @torch.no_grad()
    def apply_gradients(self, *, scale: float | None = None) -> Importance:
        """As `learn`; returns the keys' importance on the host, which synchronises with the device after all work.

        Args:
            scale: the factor of the losses (`GradScaler.get_scale()`), by which gradients and importance are divided.
                As `GradScaler.step` does, it skips an update whose gradients are not finite: no key has importance.

        Raises:
            DivergedError: a gradient is not finite, and there is no `scale`; nothing was changed. On CUDA it is checked
                only with a `scale`, because the check waits for the device.
            GradientError: changes were applied since one of the forward passes.
        """
        if scale is None and self._fused is not None:
            return self.learn().to_importance()
        touched = self.take_finite(scale)
        return self._train(touched if touched is not None else Touched(sums={})).to_importance()

    @torch.no_grad()
    def learn(self, accept: Tensor | None = None) -> Scores:
        """Updates the rows that backward passes touched since the last call, each once; does not synchronise.

        Gradients and scores of several passes are summed; each loss counts as a mean over the rows of its pass. Whether
        gradients are finite is the caller's to know.

        Args:
            accept: a bool tensor () on the device, not in the numba body; if it is false, rows, optimizer state and
                gates stay as they are, but for the count of rounds of the stochastic rounding. None for true.

        Raises:
            GradientError: changes were applied since one of the forward passes.
        """
        touched = self._learn_fused(accept) or self.take_touched() or Touched(sums={})
        return self._train(touched if accept is None else touched.if_accepted(accept))

    def _train(self, touched: Touched) -> Scores:
        """Updates the rows and gates that were touched."""
        for name, sums in touched.sums.items():
            self._stores[name].learn(sums, touched.batch_rows)
        if touched.slopes is not None:
            self.gate.learn(touched.slopes)
        return Scores(keys=touched.keys, scores=touched.scores, counts=touched.counts)

    def _learn_fused(self, accept: Tensor | None = None) -> Touched | None:
        """Trains with a single pass of the triton body and returns what is left: importance; otherwise None."""
        single = self.take_single_pass() if self._fused else None
        if self._fused is None or single is None:
            return None
        lookup, gradient = single
        self._check_version(lookup)
        by_record = score_records(lookup, gradient)
        keys, scores = self._fused.learn(lookup.keys, lookup.routed, gradient, lookup.batch_rows, accept)
        if by_record is not None:
            return Touched(sums={}, keys=by_record.keys, scores=by_record.scores, counts=by_record.counts)
        return Touched(sums={}, keys=keys, scores=scores)

    def _check_version(self, lookup: Lookup) -> None:
        if lookup.version != self.router.version:
            raise GradientError("changes were applied between forward and apply_gradients; migrate between steps")

    def reduce(self, lookup: Lookup, gradient: Tensor) -> Touched:
        """Sums one pass's gradient (N, D) by row and by gate; also returns its keys' importance.

        Raises:
            GradientError: changes were applied since the forward pass.
        """
        self._check_version(lookup)
        all_reads = lookup.reads or self._reads_torch(lookup.keys)
        each: tuple[tuple[Tensor, Tensor | None], ...]
        by_record = score_records(lookup, gradient)
        if lookup.vectors is not None:
            keys, (merged, scores) = lookup.keys, self._merge_by_key(lookup, gradient)
            each = tuple(zip(lookup.by_store(merged), lookup.by_store(lookup.vectors), strict=True))
        else:
            each = ((gradient, None), (gradient, None))
            if by_record is None:
                keys, scores = gathers.merge_by_id(lookup.keys, gradient.norm(dim=1) * lookup.batch_rows, 0)
        reduced = {
            name: self._stores[name].sum_gradients(reads, *both)
            for (name, reads), both in zip(all_reads.items(), each, strict=True)
        }
        slopes = [one.slopes for one in reduced.values()]
        return Touched(
            sums={name: one.sums for name, one in reduced.items()},
            keys=keys if by_record is None else by_record.keys,
            scores=scores if by_record is None else by_record.scores,
            counts=None if by_record is None else by_record.counts,
            slopes=np.concatenate(slopes, axis=1) if self.backend == "numba" else torch.cat(slopes, dim=1),
            batch_rows=lookup.batch_rows,
        )

    def _merge_by_key(self, lookup: Lookup, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Sums the gradient (N, D) by key (U, D), and the norms of the sum of the losses' gradients (U,)."""
        sums, scores = np.zeros((len(lookup.keys), self.plan.dim), np.float32), np.zeros(len(lookup.keys), np.float32)
        factor = np.float32(lookup.batch_rows)
        row_kernels(self.plan.dim).merge(gradient.numpy(), lookup.inverse, sums, factor, scores)
        return torch.from_numpy(sums), torch.from_numpy(scores)

    @torch.no_grad()
    def migrate(self, changes: Changes) -> MigrationReport:
        """Applies changes, with the effect of one after the other: updates routes and copies promoted keys' vectors.

        The new row of a hot key starts with the vector that the key had, divided by the gate of the hot tier. Its
        optimizer state starts at zero, or moves with the key if the key was hot in another row. A demotion drops the
        row (a prototype gained nothing from writing it back).
        Costs O(K log K), and the upload of changed router slots on CUDA.

        Raises:
            CapacityError: a change names a row beyond the capacity; the embedding is unchanged.
            GradientError: captured gradients have not been applied.
        """
        if self.has_captured:
            raise GradientError("there are captured gradients: call apply_gradients before migrate")
        if not len(changes):
            return MigrationReport()
        migration = resolve(changes, self.router, self.plan.capacity_rows)
        self.router.route(to_device(migration.keys.view(np.int64), self.device))  # raises for keys of other fields
        self._tiers.move(migration)
        self.router.update(migration.keys, migration.after)
        return migration.report

    def tensors(self) -> dict[str, Tensor]:
        """The complete state for a checkpoint: rows, optimizer state, gates and hot keys in ascending order."""
        return self._name_tensors(*self.router.items())

    def unsorted_tensors(self) -> dict[str, Tensor]:
        """As `tensors` with the hot keys unsorted, which costs no more than a copy."""
        return self._name_tensors(*self.router.unsorted_items())

    def _name_tensors(self, keys: npt.NDArray[np.uint64], values: npt.NDArray[np.int32]) -> dict[str, Tensor]:
        return {
            **{f"{name}.{part}": one for name, kept in self._stores.items() for part, one in kept.tensors().items()},
            **self.gate.tensors(),
            "router_keys": torch.from_numpy(keys.view(np.int64)),
            "router_values": torch.from_numpy(values),
        }

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the state from the result of `tensors`; drops captured gradients.

        Raises:
            CheckpointError: a tensor is missing or has another size or dtype, or hot keys contradict each other; the
                embedding is unchanged.
        """
        for name, mine in self.unsorted_tensors().items():
            _require_same_form(name, tensors.get(name), mine, is_sized=not name.startswith("router_"))
        self.router.load(tensors["router_keys"].numpy().view(np.uint64), tensors["router_values"].numpy())
        for name, store in self._stores.items():
            own = {part.removeprefix(f"{name}."): one for part, one in tensors.items() if part.startswith(f"{name}.")}
            store.load_tensors(own)
        self.gate.load_tensors(tensors)
        self.zero_grad()


def _require_same_form(name: str, loaded: Tensor | None, mine: Tensor, *, is_sized: bool) -> None:
    """Refuses a missing tensor, and one of another dtype or, if `is_sized`, of another shape."""
    if loaded is None:
        raise CheckpointError(f"{name}: the checkpoint has none; load one that this version wrote")
    if loaded.dtype != mine.dtype or (is_sized and loaded.shape != mine.shape):
        raise CheckpointError(
            f"{name}: got {tuple(loaded.shape)} {loaded.dtype}, expected {tuple(mine.shape)} {mine.dtype}: make the "
            "embedding with the plan that the state was saved with"
        )
