"""`TieredRows`: tracked features have own rows in one of several tiers, all others a hashed row of their field.

A tier is a table and two maps: `expand` from its rows to vectors of D values, `shrink` back. A feature that changes
tier takes its vector with it, as far as the new tier can hold it; a promoted feature starts from the vector that it had
when it was cold. A demotion to cold loses the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.embedding.plans import largest_fitting
from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.ranks import COLD, Moves, Order, Ranks, ranks_bytes
from trainer.evaluate.methods.row_hash import RowHash, split_rows
from trainer.evaluate.methods.row_tables import Rows, RowTables

__all__ = ["CodedRows", "Tier", "TierPlan", "TieredRows", "plan_tiers"]

_UNIQUE_SHARE = 0.5
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Tier:
    """The rows of one tier.

    Args:
        row_format: the name of the store.
        dim: values per row.
        part: how many features it holds, relative to the other tiers.
    """

    row_format: str
    dim: int
    part: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TierPlan:
    """The sizes of a method.

    Attributes:
        tiers: the tiers of tracked features, the best first.
        capacities: rows of each.
        cold: the rows of all other features; its `part` is not used.
        num_shared: rows of it.
    """

    tiers: tuple[Tier, ...]
    capacities: tuple[int, ...]
    cold: Tier
    num_shared: int


def plan_tiers(brief: Brief, tiers: Sequence[Tier], cold: Tier, *, fixed_bytes: int = 0) -> TierPlan | Infeasible:
    """Spends `unique_share` of the budget (a knob, .5 by default) on tracked features, the rest on shared rows.

    Args:
        brief: with the knob.
        tiers: the tiers, in proportion to whose parts the tracked features are divided.
        cold: the shared rows.
        fixed_bytes: what the method needs besides.
    """
    parts = np.array([tier.part for tier in tiers])
    cold_bytes, fewest = brief.row_bytes(cold.row_format, cold.dim), len(brief.field_sizes)

    def capacities(num_tracked: int) -> tuple[int, ...]:
        return tuple(int(rows) for rows in np.maximum(1, np.floor(num_tracked * parts / parts.sum())))

    def nbytes(num_tracked: int) -> int:
        rows = capacities(num_tracked)
        sizes = [brief.row_bytes(tier.row_format, tier.dim) for tier in tiers]
        return sum((count + 1) * size for count, size in zip(rows, sizes, strict=True)) + ranks_bytes(sum(rows))

    room = brief.budget_bytes - fixed_bytes - cold_bytes
    least = nbytes(1) + fewest * cold_bytes
    if least > room:
        needed = least + fixed_bytes + cold_bytes
        return Infeasible(
            f"one row in each of {len(tiers)} tiers and one shared row per field need {needed} bytes, "
            f"got {brief.budget_bytes}"
        )
    most = min(brief.number("unique_share", _UNIQUE_SHARE) * room, room - fewest * cold_bytes)
    tracked = largest_fitting(lambda count: nbytes(count) <= most, 1, max(2, brief.budget_bytes // 8))
    tracked = min(tracked, brief.num_features)
    return TierPlan(
        tiers=tuple(tiers),
        capacities=capacities(tracked),
        cold=cold,
        num_shared=(room - nbytes(tracked)) // cold_bytes,
    )


class TieredRows(RowTables):
    """Rows in tiers; a subclass says how a tier's rows and vectors map to each other.

    Args:
        brief: the inputs.
        plan: the sizes.
        order: what the tracked features are ranked by; their importance by default.
        num_coded: features of one more tier below, without rows of its own; `locate` says what they read.
        parts: rows of the last table that a feature reads; it has so many times the shared rows of the plan.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"adaptive"})

    def __init__(
        self,
        brief: Brief,
        plan: TierPlan,
        order: Order = lambda _, scores: scores,
        num_coded: int = 0,
        parts: int = 1,
    ) -> None:
        split = split_rows(plan.num_shared, brief.field_sizes, "equal")
        row_hash = RowHash(brief.field_sizes, split, brief.seed)
        counts = (*plan.capacities, parts * row_hash.num_rows)
        super().__init__(
            *(
                Rows(count, brief, dim=tier.dim, row_format=tier.row_format, salt=salt)
                for salt, (count, tier) in enumerate(zip(counts, (*plan.tiers, plan.cold), strict=True))
            )
        )
        self.dim, self._row_hash, self._cold = brief.dim, row_hash, len(plan.tiers)
        self.ranks = Ranks((*plan.capacities, *([num_coded] if num_coded else [])), brief.seed, order)
        self._ids: Ids = np.empty(0, np.int64)
        self._gradient: Tensor | None = None

    def expand(self, tier: int, rows: Tensor) -> Tensor:  # noqa: ARG002
        """Vectors (K, D) of a tier's rows (K, d); the shared rows are the last tier. Here they are equal."""
        return rows

    def shrink(self, tier: int, vectors: Tensor) -> Tensor:  # noqa: ARG002
        """Rows (K, d) of a tier that hold vectors (K, D) as well as they can. Here they are equal."""
        return vectors

    def locate(self, ids: Ids, tier: Ids, row: Ids) -> tuple[Ids, Ids]:
        """Tables (N,) and rows (N,) of features (N,) that have a row (N,) of a tier (N,); the shared rows come last."""
        is_cold = tier == COLD
        return np.where(is_cold, self._cold, tier), np.where(is_cold, self.shared_rows(ids), row)

    def shared_rows(self, ids: Ids) -> Ids:
        """The hashed rows (N,) of features (N,)."""
        return self._row_hash.of_fields(ids, self.fields(ids))

    def fields(self, ids: Ids) -> Ids:
        """The fields (N,) of features (N,), counted from 0."""
        return np.searchsorted(self._row_hash.first_ids, ids, side="right") - 1

    def gather(self, number: int, rows: Ids, *, learns: bool) -> Tensor:
        """Vectors (K, D) of what `locate` gave for features (K,) of a table."""
        if number < self._cold:
            rows = _own(rows)
        table, flat = self._rows[number], np.ascontiguousarray(rows).reshape(-1)
        found: Tensor = table(flat) if learns else table.gather(flat)
        return self.expand(number, found.view(len(rows), -1))

    def _read(self, tables: Ids, rows: Ids, *, learns: bool) -> Tensor:
        """Vectors (N, D) of rows (N,) of tables (N,), or (N, k) of a table whose vectors consist of k rows."""
        order = np.argsort(tables, kind="stable")
        parts = []
        for number in range(len(self._rows)):
            wanted = rows[order[tables[order] == number]]
            if len(wanted):
                parts.append(self.gather(number, wanted, learns=learns))
        inverse = np.empty_like(order)
        inverse[order] = np.arange(len(order))
        return torch.cat(parts)[torch.from_numpy(inverse)]

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        ids = words.numpy().reshape(-1).astype(np.int64)
        vectors = self._read(*self.locate(ids, *self.ranks.find(ids)), learns=True)
        if vectors.requires_grad:
            self._ids = ids
            vectors.register_hook(self._keep)  # type: ignore[no-untyped-call]
        return vectors.view(*words.shape, self.dim)

    def _keep(self, gradient: Tensor) -> None:
        self._gradient = gradient

    @torch.no_grad()
    def learn(self) -> None:
        """As `Method.learn`."""
        super().learn()
        if self._gradient is None:
            return
        norms = self._gradient.norm(dim=1).numpy() * len(self._ids)  # (N,) of the gradient of the sum of the losses
        ids, inverse = np.unique(self._ids, return_inverse=True)
        scores = np.bincount(inverse.reshape(-1), weights=norms).astype(np.float32)
        self._gradient = None
        moves = self.ranks.update(ids, scores)
        if len(moves):
            self.move(moves)

    @torch.no_grad()
    def move(self, moves: Moves) -> None:
        """Copies the vectors of features that change tier or row; optimizer state goes with those of tracked ones."""
        tables, rows = self.locate(moves.ids, moves.tier, moves.row)
        vectors, state = self._read(tables, rows, learns=False), self._states(tables, rows)
        for number, table in enumerate(self._rows[: self._cold]):
            to = np.flatnonzero(moves.to_tier == number)
            if len(to):
                chosen = torch.from_numpy(to)
                addresses = torch.from_numpy(moves.to_row[to])[:, None]
                table.store.write(addresses, self.shrink(number, vectors[chosen]), state=state[chosen])
        self.demote(moves, vectors)

    def demote(self, moves: Moves, vectors: Tensor) -> None:
        """Called with the moves and the vectors (M, D) before them; here what becomes cold loses its vector."""

    def _states(self, tables: Ids, rows: Ids) -> Tensor:
        """Optimizer sums (M,) of rows that features own; 0 of shared ones."""
        found = torch.zeros(len(rows))
        for number, table in enumerate(self._rows[: self._cold]):
            at = np.flatnonzero(tables == number)
            found[torch.from_numpy(at)] = table.store.state_of(torch.from_numpy(_own(rows[at]))[:, None])
        return found

    @property
    def extra_bytes(self) -> int:
        """As `RowTables.extra_bytes`: the tracker and the map."""
        return self.ranks.nbytes

    @property
    def extra_paper_bytes(self) -> int:
        """As `RowTables.extra_paper_bytes`: the sketch."""
        return self.ranks.hot_set.sketch.nbytes

    def describe(self) -> dict[str, float]:
        """As `Method.describe`."""
        ranks = self.ranks
        return {"hot": ranks.hot_set.num_hot, "promotions": ranks.num_promoted, "demotions": ranks.num_demoted}


def _own(rows: Ids) -> Ids:
    """The one row (K,) of features that own one: rows (K,), or the first of (K, k)."""
    return rows if rows.ndim == 1 else rows[:, 0]


class CodedRows(TieredRows):
    """Tiered rows whose tracked features have codes.

    Attributes:
        codes: the codes of each tracked feature.
        mass: the weight of what came to each centroid, float32; empty where none is kept.
    """

    codes: npt.NDArray[Any]
    mass: npt.NDArray[np.float32] = np.zeros(0, np.float32)

    @property
    def extra_bytes(self) -> int:
        """As `RowTables.extra_bytes`, with codes and masses."""
        return super().extra_bytes + self.codes.nbytes + self.mass.nbytes

    @property
    def extra_paper_bytes(self) -> int:
        """As `RowTables.extra_paper_bytes`, with the codes."""
        return super().extra_paper_bytes + self.codes.nbytes
