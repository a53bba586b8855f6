"""`AdaptiveEmbedding`: unique rows for the hot features, a few shared ones for all others, one table.

    keys (B, F) --router--> a unique row, or a row and two half rows --sum--> vectors (B, F, D)

A lookup is an embedding bag over one physical table, so promotion is a row copy inside it, and what a key mattered is
the norm of the gradient at the bag's output.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sketch.changes import Changes
from trainer.embedding import gathers, kernels
from trainer.embedding.captured import CapturingEmbedding, Touched
from trainer.embedding.gate import Gate
from trainer.embedding.layout import left_half
from trainer.embedding.lookup import Importance, Lookup, Numbering, Routes, distinct, empty_slots
from trainer.embedding.migration import MigrationReport, resolve
from trainer.embedding.plans import EmbeddingPlan
from trainer.embedding.router import Backend, Router
from trainer.embedding.stores.kernels import row_kernels
from trainer.embedding.stores.row_table import RowOptimizer
from trainer.errors import GradientError

__all__ = ["AdaptiveEmbedding", "CapturingEmbedding"]


def _by_part(routes: Routes, gradient: Tensor) -> Tensor:
    """The gradients (N, D) of each part's rows, one part after the other; half of a half row's is 0."""
    if not len(routes.left):
        return gradient
    is_left = torch.arange(gradient.shape[1], device=gradient.device) < left_half(gradient.shape[1])
    return torch.cat([gradient, gradient * is_left, gradient * ~is_left])


class AdaptiveEmbedding(CapturingEmbedding):
    """An embedding that follows the hot set.

    Guarantees:
        - The vector of a key right after its promotion equals the one right before, for every field: in float32 bit
          for bit, in a smaller format to the nearest; vectors of keys that no change names are untouched (but for a
          former owner whose row was taken).
        - Never more hot rows than the plan's capacity: a change that names a row beyond it is refused as a whole.
        - On a CPU a step is a pure function of state and batch, bit for bit.

    Use, with any model and any optimizer for its dense part::

        vectors = embedding(keys)                    # (B, F, D)
        loss = criterion(model(dense, vectors), label)  # a mean over the batch
        loss.backward()
        optimizer.step()
        importance = embedding.apply_gradients()     # updates the touched rows

    A step costs O(B F D), whatever the size of the table. A plan with a gate multiplies what is looked up by a learned
    scalar (`trainer.embedding.gate`).
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
        super().__init__(plan, optimizer=optimizer, seed=seed, device=device, backend=backend)
        self.router = Router(plan.layout, expected_keys=plan.router_keys, device=self.device, backend=self.backend)
        self.gate = Gate(plan.layout, self.device) if plan.gate else None

    @property
    def num_hot(self) -> int:
        """Hot keys now."""
        return self.router.num_hot

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes allocated: rows, optimizer, router, gate; `device` what is on the device, `total` everything."""
        router = self.router.nbytes
        table = {**self.table.nbytes, "gate": self.gate.nbytes if self.gate else 0}
        on_device = sum(table.values()) + (router["host"] if self.device.type == "cpu" else router["device"])
        total = sum(table.values()) + sum(router.values())
        return {**table, "router": sum(router.values()), "device": on_device, "total": total}

    def look_up(self, keys: Tensor, batch_rows: int) -> Lookup:
        """The routes of (N,) int64 keys, each distinct key routed once on a CPU."""
        inverse = None
        if self.backend == "numba":
            unique, places = distinct(keys.numpy().view(np.uint64))
            keys, inverse = torch.from_numpy(unique.view(np.int64)), torch.from_numpy(places)
        routes = self.router.route(keys)
        numbering = None
        if inverse is not None and torch.is_grad_enabled():  # now, while the routes are in the cache
            numbering = self.number(routes)
        return Lookup(
            keys=keys,
            inverse=inverse,
            routes=routes,
            batch_rows=batch_rows,
            version=self.router.version,
            numbering=numbering,
            gated=self.gate.of(keys, routes.row) if self.gate else None,
        )

    def number(self, routes: Routes) -> Numbering:
        """The distinct rows of (U,) routes."""
        row, left, right = (part.numpy() for part in routes)
        capacity, num_levels = self.plan.capacity_rows, 3 if len(left) else 1
        slots, shift = empty_slots(num_levels * int(np.count_nonzero(row >= capacity)))
        rows, numbers = np.empty(1 + num_levels * len(row), np.int32), np.empty((len(row), 3), np.int32)
        count = kernels.number_rows(row, left, right, capacity, slots, shift, rows, numbers)
        return Numbering(rows[1 : 1 + count], numbers)

    @torch.no_grad()
    def apply_gradients(self) -> Importance:
        """Updates the rows that backward passes touched since the last call, each once; gives each key's importance.

        The gradients of several passes add up, and so do their scores; each loss counts as a mean over its pass's rows.

        Raises:
            GradientError: changes were applied between a forward pass and this.
        """
        touched = self.take_touched()
        if touched is None:
            return Importance(np.empty(0, np.uint64), np.empty(0, np.float32))
        if self.gate is not None and touched.slopes is not None:
            self.gate.learn(touched.slopes)
        self.table.update(touched.rows, touched.sums)  # all queued before the only wait, which the reported loss shares
        keys, scores = touched.keys.cpu().numpy().view(np.uint64), touched.scores.cpu().numpy()
        return Importance(keys[keys != 0], scores[keys != 0]) if self.backend == "torch" else Importance(keys, scores)

    def reduce(self, lookup: Lookup, gradient: Tensor, vectors: Tensor | None) -> Touched:
        """The sums of one pass's gradient (N, D) by row, the importance of its keys, and the slopes of their gates.

        Raises:
            GradientError: changes were applied since the forward pass.
        """
        if lookup.version != self.router.version:
            raise GradientError("changes were applied between forward and apply_gradients; migrate between steps")
        return (self._reduce_numba if self.backend == "numba" else self._reduce_torch)(lookup, gradient, vectors)

    def _reduce_numba(self, lookup: Lookup, gradient: Tensor, vectors: Tensor | None) -> Touched:
        assert lookup.inverse is not None  # noqa: S101  the numba body always has one
        assert lookup.numbering is not None  # noqa: S101
        num_keys, dim, numbering = len(lookup.keys), gradient.shape[1], lookup.numbering
        sums, scores = np.zeros((len(numbering.rows), dim), np.float32), np.zeros(num_keys, np.float32)  # (P, D), (U,)
        scale = np.float32(lookup.batch_rows)
        gates = np.empty(0, np.float32) if lookup.gated is None else lookup.gated.factors.numpy()
        dots = np.zeros(len(gates), np.float32)
        looked_up = (gradient if vectors is None else vectors).numpy()
        merge = row_kernels(dim).merge_scores
        merge(gradient.numpy(), lookup.inverse.numpy(), numbering.numbers, scale, sums, scores, gates, looked_up, dots)
        return Touched(
            rows=torch.from_numpy(numbering.rows),
            sums=torch.from_numpy(sums),
            keys=lookup.keys,
            scores=torch.from_numpy(scores),
            slopes=self._slopes(lookup, torch.from_numpy(dots)),
        )

    def _reduce_torch(self, lookup: Lookup, gradient: Tensor, vectors: Tensor | None) -> Touched:
        padding = self.plan.layout.padding_row
        norms = gradient.norm(dim=1) * lookup.batch_rows  # (N,)
        keys, scores = gathers.merge_by_id(lookup.keys, norms, 0)
        slopes = None
        if vectors is not None and lookup.gated is not None:
            slopes = self._slopes(lookup, (gradient * vectors).sum(dim=1))
            gradient = gradient * lookup.gated.factors[:, None]
        rows, merged = gathers.merge_by_id(torch.cat(lookup.routes), _by_part(lookup.routes, gradient), padding)
        merged = torch.where((rows == padding)[:, None], 0.0, merged)
        return Touched(rows=rows, sums=merged, keys=keys, scores=scores, slopes=slopes)

    def _slopes(self, lookup: Lookup, dots: Tensor) -> Tensor | None:
        """The slopes (F, 2) of the gates, of (U,) gradient times gated vector of each key."""
        return self.gate.slopes(lookup.gated, dots) if self.gate is not None and lookup.gated is not None else None

    @torch.no_grad()
    def migrate(self, changes: Changes) -> MigrationReport:
        """Follows the changes, as if one after the other: routes change, and a promoted key's vector is copied.

        The new row of a hot key starts with the vector that the key had, over the hot tier's gate; its optimizer state
        starts afresh, or comes along if the key was hot in another row. A demotion drops the row (writing it back won
        nothing in a prototype).
        O(K log K), and the router's copy on CUDA.

        Raises:
            CapacityError: a change names a row beyond the capacity; nothing was changed.
            GradientError: captured gradients have not been applied.
        """
        if self.has_captured:
            raise GradientError("captured gradients wait: call apply_gradients before migrate")
        if not len(changes):
            return MigrationReport()
        migration = resolve(changes, self.router, self.plan.capacity_rows)
        taking = migration.takes_row
        keys = torch.from_numpy(migration.keys[taking].view(np.int64)).to(self.device)
        routes = self.router.route(keys)
        vectors = self.table.read(routes)  # (K, D), before anything moves
        was_hot = torch.from_numpy(migration.before[taking] >= 0).to(self.device)
        state = torch.where(was_hot, self.table.read_state(routes.row.long()), 0.0)
        self.router.update(migration.keys, migration.after)
        if self.gate is not None:
            before, after = (self.gate.of(keys, rows).factors for rows in (routes.row, self.router.route(keys).row))
            vectors *= (before / after)[:, None]
        rows = torch.from_numpy(migration.after[taking].astype(np.int64)).to(self.device)
        self.table.write(rows, vectors, state, like=routes.row)
        return migration.report

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold: rows, optimizer state, hot keys."""
        keys, values = self.router.items()
        return self._name_tensors(keys, values)

    def unsorted_tensors(self) -> dict[str, Tensor]:
        """Likewise, but that hot keys stand in no order, which takes no longer than a copy."""
        return self._name_tensors(*self.router.unsorted_items())

    def _name_tensors(self, keys: npt.NDArray[np.uint64], values: npt.NDArray[np.int32]) -> dict[str, Tensor]:
        return {
            **self.table.tensors(),
            **(self.gate.tensors() if self.gate else {}),
            "router_keys": torch.from_numpy(keys.view(np.int64)),
            "router_values": torch.from_numpy(values),
        }

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` gave.

        Raises:
            CheckpointError: they are of another size.
        """
        self.table.load_tensors(tensors)
        if self.gate is not None:
            self.gate.load_tensors(tensors)
        self.router.load(tensors["router_keys"].numpy().view(np.uint64), tensors["router_values"].numpy())
        self.zero_grad()
