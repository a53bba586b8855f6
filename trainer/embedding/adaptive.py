"""`AdaptiveEmbedding`: a router in front of one store of unique rows and two stores of shared rows.

    keys (B, F) --router--> hot:    a row of `hot`
                            others: a row of `level_1` + two halves of `level_2`  --sum--> vectors (B, F, D)

A promotion reads a vector from the shared stores and writes it into the hot store. The importance of a key is the norm
of the gradient at its vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sketch.changes import Changes
from trainer.embedding import gathers, kernels
from trainer.embedding.backends import Backend
from trainer.embedding.captured import Touched
from trainer.embedding.gate import Gate
from trainer.embedding.key_embedding import CapturingEmbedding
from trainer.embedding.lookup import Importance, Lookup, distinct
from trainer.embedding.migration import Migration, MigrationReport, resolve
from trainer.embedding.plans import EmbeddingPlan
from trainer.embedding.router import Router
from trainer.embedding.stores.rows import RowOptimizer
from trainer.embedding.stores.store import Reads, Store, Tally
from trainer.embedding.tiers import HOT_STORE, SHARED_STORES, build_stores
from trainer.errors import CheckpointError, GradientError

__all__ = ["AdaptiveEmbedding"]


class AdaptiveEmbedding(CapturingEmbedding):
    """An embedding that follows the hot set.

    Guarantees:
        - A promotion keeps the vector of the key, for every field: bit for bit in float32, rounded to nearest in a
          smaller format. Vectors of keys that no change names stay the same, except that of a former owner whose row
          was reassigned.
        - There are never more hot rows than the plan's capacity: a batch with a row beyond it is refused as a whole.
        - On a CPU a step is a deterministic function of state and batch, bit for bit.

    Usage, with any model and any optimizer for its dense part::

        vectors = embedding(keys)                    # (B, F, D)
        loss = criterion(model(dense, vectors), label)  # a mean over the batch
        loss.backward()
        optimizer.step()
        importance = embedding.apply_gradients()     # updates the rows that were read

    A step costs O(B F D), independent of the size of the table. With a gate, each looked-up vector is multiplied by a
    learned scalar (`trainer.embedding.gate`).
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
        stores = build_stores(
            plan, optimizer=optimizer or RowOptimizer(), seed=seed, device=self.device, backend=self.backend
        )
        self.stores = nn.ModuleDict(stores)
        self._by_name: dict[str, Store] = dict(stores)  # the same, found without a module's detours
        self.router = Router(plan.layout, expected_keys=plan.router_keys, device=self.device, backend=self.backend)
        self.gate = Gate(plan.layout.num_fields, self.device) if plan.gate else None
        self.keeps_vectors = plan.gate
        self._shared = SHARED_STORES if plan.layout.level_2_rows else SHARED_STORES[:1]

    def store(self, name: str) -> Store:
        """The store of that name: `hot`, `level_1` or `level_2`."""
        return self._by_name[name]

    @property
    def num_hot(self) -> int:
        """The number of hot keys."""
        return self.router.num_hot

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes allocated by rows, optimizer, router and gate; `device` counts those on the device, `total` all."""
        router, stores = self.router.nbytes, [self.store(name).nbytes for name in self.stores]
        table = {part: sum(store[part] for store in stores) for part in ("rows", "optimizer")}
        table["gate"] = self.gate.nbytes if self.gate else 0
        on_device = sum(table.values()) + (router["host"] if self.device.type == "cpu" else router["device"])
        total = sum(table.values()) + sum(router.values())
        return {**table, "router": sum(router.values()), "device": on_device, "total": total}

    def look_up(self, keys: Tensor, batch_rows: int) -> Lookup:
        """Routes (N,) int64 keys to the stores that serve them; on a CPU each distinct key once."""
        num_lookups = len(keys)
        if self.backend == "numba":
            unique, inverse = distinct(keys.numpy().view(np.uint64))
            keys = torch.from_numpy(unique.view(np.int64))
            rows = self.router.route(keys)  # (U,)
            gated = self.gate.of(keys, rows >= 0) if self.gate else None
            reads = dict(self._reads_numba(keys, rows, inverse, None if gated is None else gated.factors))
        else:
            rows = self.router.route(keys)
            gated = self.gate.of(keys, rows >= 0) if self.gate else None
            reads = dict(self._reads_torch(keys, rows, None if gated is None else gated.factors))
        return Lookup(
            keys=keys,
            reads=reads,
            num_lookups=num_lookups,
            batch_rows=batch_rows,
            version=self.router.version,
            gated=gated,
        )

    def _reads_numba(
        self, keys: Tensor, rows: Tensor, inverse: npt.NDArray[np.int32], gates: Tensor | None
    ) -> Iterator[tuple[str, Reads]]:
        """What U keys with these unique rows, or none, read of each store, for lookups (N,)."""
        own, (hot_keys, other_keys) = rows.numpy(), np.empty((2, 1 + len(keys)), np.int32)
        hot_lookups, other_lookups = np.empty((2, 1 + len(inverse)), np.int32)
        num_hot, num_lookups = kernels.split(own, inverse, hot_keys, other_keys, hot_lookups, other_lookups)
        factors = np.empty(0, np.float32) if gates is None else gates.numpy()
        yield (
            HOT_STORE,
            Reads(
                addresses=own[:, None],
                inverse=inverse,
                where=hot_lookups[:num_lookups],
                members=hot_keys[:num_hot],
                gates=factors,
                is_distinct=True,
            ),
        )
        others, sharing = other_lookups[: len(inverse) - num_lookups], other_keys[: len(keys) - num_hot]
        for name in self._shared:
            yield (
                name,
                Reads(
                    addresses=self.store(name).address(keys).numpy(),
                    inverse=inverse,
                    where=others,
                    members=sharing,
                    gates=factors,
                    is_first=name == self._shared[0],
                ),
            )

    def _reads_torch(self, keys: Tensor, rows: Tensor, gates: Tensor | None) -> Iterator[tuple[str, Reads]]:
        """As `_reads_numba`, in shapes that do not depend on the data."""
        yield HOT_STORE, Reads(addresses=rows[:, None].long(), gates=gates)
        is_hot = (rows >= 0)[:, None]
        for name in self._shared:
            yield name, Reads(addresses=torch.where(is_hot, -1, self.store(name).address(keys)), gates=gates)

    def gather(self, lookup: Lookup) -> Tensor:
        """The vectors (N, D), times their gates."""
        blank = torch.empty if self.backend == "numba" else torch.zeros
        out = blank(lookup.num_lookups, self.plan.dim, device=self.device)
        for name, reads in lookup.reads.items():
            self.store(name).gather_add(reads, out)
        return out

    @torch.no_grad()
    def apply_gradients(self) -> Importance:
        """Updates the rows that backward passes touched since the last call, each once; returns the keys' importance.

        Gradients and scores of several passes are summed; each loss counts as a mean over the rows of its pass.

        Raises:
            GradientError: changes were applied since one of the forward passes.
        """
        touched = self.take_touched()
        if touched is None:
            return Importance(np.empty(0, np.uint64), np.empty(0, np.float32))
        if self.gate is not None and touched.slopes is not None:
            self.gate.learn(touched.slopes)
        for name, sums in touched.sums.items():
            self.store(name).learn(sums)  # queues all work before the only synchronisation, which also serves the loss
        keys, scores = touched.keys.cpu().numpy().view(np.uint64), touched.scores.cpu().numpy()
        return Importance(keys[keys != 0], scores[keys != 0]) if self.backend == "torch" else Importance(keys, scores)

    def reduce(self, lookup: Lookup, gradient: Tensor, vectors: Tensor | None) -> Touched:
        """Sums one pass's gradient (N, D) by row; also returns its keys' importance and the gradient at the gates.

        Raises:
            GradientError: changes were applied since the forward pass.
        """
        if lookup.version != self.router.version:
            raise GradientError("changes were applied between forward and apply_gradients; migrate between steps")
        return (self._reduce_numba if self.backend == "numba" else self._reduce_torch)(lookup, gradient, vectors)

    def _reduce_numba(self, lookup: Lookup, gradient: Tensor, vectors: Tensor | None) -> Touched:
        scores = np.zeros(len(lookup.keys), np.float32)
        dots = np.zeros(len(lookup.keys) if lookup.gated else 0, np.float32)
        looked_up = (gradient if vectors is None else vectors).numpy()
        tally = Tally(factor=np.float32(lookup.batch_rows), scores=scores, dots=dots, vectors=looked_up)
        sums = {
            name: self.store(name).sum_gradients(reads, gradient, tally if reads.is_first else None)
            for name, reads in lookup.reads.items()  # exactly one store is the first of each key
        }
        slopes = self._slopes(lookup, torch.from_numpy(dots))
        return Touched(sums=sums, keys=lookup.keys, scores=torch.from_numpy(scores), slopes=slopes)

    def _reduce_torch(self, lookup: Lookup, gradient: Tensor, vectors: Tensor | None) -> Touched:
        norms = gradient.norm(dim=1) * lookup.batch_rows  # (N,)
        keys, scores = gathers.merge_by_id(lookup.keys, norms, 0)
        slopes = None if vectors is None else self._slopes(lookup, (gradient * vectors).sum(dim=1))
        sums = {name: self.store(name).sum_gradients(reads, gradient) for name, reads in lookup.reads.items()}
        return Touched(sums=sums, keys=keys, scores=scores, slopes=slopes)

    def _slopes(self, lookup: Lookup, dots: Tensor) -> Tensor | None:
        """The gradient (F, 2) at the gates; `dots` (U,) are gradient times gated vector, per key."""
        return self.gate.slopes(lookup.gated, dots) if self.gate is not None and lookup.gated is not None else None

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
        self._move(migration)
        self.router.update(migration.keys, migration.after)
        return migration.report

    def _move(self, migration: Migration) -> None:
        """Copies the vectors of keys that get a row into that row: `hot.write(new, old.read(...))`."""
        hot = self.store(HOT_STORE)
        self.router.route(self._on_device(migration.keys.view(np.int64)))  # raises for keys of other fields
        takes, was_hot = migration.takes_row, migration.before >= 0
        moved, promoted = takes & was_hot, takes & ~was_hot
        before = self._on_device(migration.before[moved].astype(np.int64))[:, None]
        vectors, state, like = hot.read(before), hot.state_of(before), hot.scales(before)  # before anything is written
        self._promote(migration.keys[promoted], migration.after[promoted])
        after = self._on_device(migration.after[moved].astype(np.int64))[:, None]
        hot.write(after, vectors, state=state, like=like)

    def _promote(self, words: npt.NDArray[np.uint64], rows: npt.NDArray[np.int32]) -> None:
        """Copies the shared vectors of keys (K,) into unique rows (K,)."""
        hot, first = self.store(HOT_STORE), self.store(self._shared[0])
        keys = self._on_device(words.view(np.int64))
        vectors = self.read_shared(keys)
        if self.gate is not None:
            no, yes = torch.zeros_like(keys, dtype=torch.bool), torch.ones_like(keys, dtype=torch.bool)
            vectors = vectors * (self.gate.of(keys, no).factors / self.gate.of(keys, yes).factors)[:, None]
        like = first.scales(first.address(keys)) if type(first) is type(hot) else None
        hot.write(self._on_device(rows.astype(np.int64))[:, None], vectors, like=like)

    def read_shared(self, keys: Tensor) -> Tensor:
        """The vectors (K, D) that keys (K,) int64 have in the shared rows, without gates."""
        stores = [self.store(name) for name in self._shared]
        vectors = stores[0].read(stores[0].address(keys))
        for store in stores[1:]:
            vectors = vectors + store.read(store.address(keys))
        return vectors

    def _on_device(self, words: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(words).to(self.device)

    def tensors(self) -> dict[str, Tensor]:
        """The complete state for a checkpoint: rows, optimizer state, gates and hot keys in ascending order."""
        keys, values = self.router.items()
        return self._name_tensors(keys, values)

    def unsorted_tensors(self) -> dict[str, Tensor]:
        """As `tensors` with the hot keys unsorted, which costs no more than a copy."""
        return self._name_tensors(*self.router.unsorted_items())

    def _name_tensors(self, keys: npt.NDArray[np.uint64], values: npt.NDArray[np.int32]) -> dict[str, Tensor]:
        named = {
            f"{name}.{part}": tensor for name in self.stores for part, tensor in self.store(name).tensors().items()
        }
        return {
            **named,
            **(self.gate.tensors() if self.gate else {}),
            "router_keys": torch.from_numpy(keys.view(np.int64)),
            "router_values": torch.from_numpy(values),
        }

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the state from the result of `tensors`.

        Raises:
            CheckpointError: a store is missing, or a tensor has another size.
        """
        for name in self.stores:
            start = f"{name}."
            parts = {part.removeprefix(start): tensor for part, tensor in tensors.items() if part.startswith(start)}
            if not parts:
                raise CheckpointError(f"{name}: the checkpoint has no such store")
            self.store(name).load_tensors(parts)
        if self.gate is not None:
            self.gate.load_tensors(tensors)
        self.router.load(tensors["router_keys"].numpy().view(np.uint64), tensors["router_values"].numpy())
        self.zero_grad()
