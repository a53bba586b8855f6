"""The tiers of an adaptive embedding, and the store that each reads.

hot       the keys with a unique row    `unique`: one row each
shared    every other key               `shared`: the sum of a row of level 1 and four quarters of level 2
"""

from __future__ import annotations

from typing import Any

import torch

from trainer.embedding.backends import Backend
from trainer.embedding.plans import EmbeddingPlan
from trainer.embedding.stores.registry import store_class
from trainer.embedding.stores.rows import RowOptimizer, RowSizes, RowStore
from trainer.embedding.stores.two_level import TwoLevelRows

__all__ = ["build_stores"]


def build_stores(
    plan: EmbeddingPlan, *, optimizer: RowOptimizer, seed: int, device: torch.device, backend: Backend
) -> tuple[RowStore, TwoLevelRows]:
    """The stores of both tiers; one generator makes all initial values, and no two rows share random bits."""
    common: dict[str, Any] = {
        "optimizer": optimizer,
        "initial": torch.Generator().manual_seed(seed),
        "seed": seed,
        "device": device,
        "backend": backend,
    }
    sizes = RowSizes(num_rows=plan.capacity_rows, dim=plan.dim, optimizer=plan.optimizer)
    unique = store_class(plan.hot_store or plan.row_format)(sizes, **common)
    kind = store_class(plan.row_format)
    return unique, TwoLevelRows(kind, plan.layout, plan.dim, row_optimizer=plan.optimizer, **common)
