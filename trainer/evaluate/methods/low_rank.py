"""`low-rank`: rare features in a basis of the r directions that the frequent ones use (AFM, KDD'24: PCA of outputs).

    the most important features         D values
    the next ones, four times as many   r = D / 4 coefficients: vector = coefficients @ basis
    all other features                  a hashed row of the field, r coefficients

Kept of the paper: the basis are the principal directions of the vectors that were looked up, each lookup counted once.
Not kept: the mean, the factors of the model's own layers, and the second training. The basis is renewed
every 128 steps from a decayed second moment of the vectors, and all coefficients are rotated into it: exactly, as long
as the old span lies in the new one. A promotion changes no vector; a demotion projects onto the basis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.tiered import Tier, TieredRows, TierPlan, plan_tiers

__all__ = ["LowRank", "build"]

_PARTS = 4  # of the dimension, and the features with coefficients for each with a row
_STEPS = 128
_KEPT = 0.99  # of the second moment, each step


class LowRank(TieredRows):
    """Coefficients in a common basis.

    Knobs: `unique_share` (of the bytes, for tracked features) and `row_format`.

    Attributes:
        basis: (r, D), orthonormal rows.
    """

    basis: Tensor
    _moment: Tensor

    def __init__(self, brief: Brief, plan: TierPlan) -> None:
        super().__init__(brief, plan)
        seeded = torch.Generator().manual_seed(brief.seed)
        start = torch.linalg.qr(torch.randn(brief.dim, plan.cold.dim, generator=seeded)).Q  # (D, r)
        self.register_buffer("basis", start.T.contiguous())
        self.register_buffer("_moment", torch.zeros(brief.dim, brief.dim))
        self._num_steps = 0

    def expand(self, tier: int, rows: Tensor) -> Tensor:
        """As `TieredRows.expand`."""
        return rows if tier == 0 else rows @ self.basis

    def shrink(self, tier: int, vectors: Tensor) -> Tensor:
        """As `TieredRows.shrink`: the projection, the nearest vector of the span."""
        return vectors if tier == 0 else vectors @ self.basis.T

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        vectors = super().forward(words)
        if torch.is_grad_enabled():
            self._count(vectors.detach().view(-1, self.dim))
        return vectors

    def _count(self, vectors: Tensor) -> None:
        """Adds vectors (N, D) to the second moment."""
        self._moment *= _KEPT
        self._moment += (1 - _KEPT) * (vectors.T @ vectors) / len(vectors)

    @torch.no_grad()
    def learn(self) -> None:
        """As `Method.learn`."""
        super().learn()
        self._num_steps += 1
        if self._num_steps % _STEPS == 0:
            self.renew()

    @torch.no_grad()
    def renew(self) -> None:
        """The basis becomes that of the second moment, and every coefficient is rotated into it."""
        directions = torch.linalg.eigh(self._moment).eigenvectors  # (D, D), ascending
        basis = directions[:, -len(self.basis) :].T.flip(0).contiguous()
        rotation = self.basis @ basis.T  # (r, r)
        for table in self._rows[1:]:
            addresses = torch.arange(table.store.num_rows)[:, None]
            state = table.store.state_of(addresses)
            table.store.write(addresses, table.store.read(addresses) @ rotation, state=state)
        self.basis.copy_(basis)

    @property
    def extra_bytes(self) -> int:
        """As `RowTables.extra_bytes`, with basis and second moment."""
        return super().extra_bytes + self.basis.nbytes + self._moment.nbytes


def build(brief: Brief) -> LowRank | Infeasible:
    """Rows of D values for the most important features, coefficients for the others."""
    rank = max(1, brief.dim // _PARTS)
    tiers = (
        Tier(row_format=brief.row_format, dim=brief.dim),
        Tier(row_format=brief.row_format, dim=rank, part=_PARTS),
    )
    fixed_bytes = 4 * (rank + brief.dim) * brief.dim
    planned = plan_tiers(brief, tiers, Tier(row_format=brief.row_format, dim=rank), fixed_bytes=fixed_bytes)
    return planned if isinstance(planned, Infeasible) else LowRank(brief, planned)
