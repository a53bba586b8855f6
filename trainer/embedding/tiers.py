"""The tiers of an adaptive embedding, and the stores that each reads.

hot       the keys with a unique row    one row of `hot`
shared    every other key               the sum of a row of `level_1` and two halves of `level_2`
"""

from __future__ import annotations

from typing import Any

import torch

from trainer.embedding.backends import Backend
from trainer.embedding.layout import LEVEL_1_SEED, LEVEL_2_SEED
from trainer.embedding.plans import EmbeddingPlan
from trainer.embedding.stores.addressing import FieldHash, PartHash
from trainer.embedding.stores.registry import store_class
from trainer.embedding.stores.rows import RowOptimizer, RowSizes, RowStore

__all__ = ["HOT_STORE", "SHARED_STORES", "build_stores"]

HOT_STORE, SHARED_STORES = "hot", ("level_1", "level_2")


def build_stores(
    plan: EmbeddingPlan, *, optimizer: RowOptimizer, seed: int, device: torch.device, backend: Backend
) -> dict[str, RowStore]:
    """The stores of a plan by name; one generator makes all initial values, and no two rows share random bits."""
    layout = plan.layout
    common: dict[str, Any] = {
        "optimizer": optimizer,
        "initial": torch.Generator().manual_seed(seed),
        "seed": seed,
        "device": device,
        "backend": backend,
    }
    by_field = FieldHash(layout.num_fields, layout.level_1_per_field, LEVEL_1_SEED)
    by_part = PartHash(layout.level_2_rows, LEVEL_2_SEED)
    level_1_start = layout.capacity_rows
    sizes = {
        "hot": RowSizes(num_rows=layout.capacity_rows, dim=plan.dim, optimizer=plan.optimizer),
        "level_1": RowSizes(
            num_rows=layout.level_1_rows, dim=plan.dim, optimizer=plan.optimizer, first_row=level_1_start
        ),
        "level_2": RowSizes(
            num_rows=layout.level_2_rows,
            dim=plan.dim,
            optimizer=plan.optimizer,
            parts=2,
            is_padded=True,
            first_row=level_1_start + layout.level_1_rows,
        ),
    }
    return {
        "hot": store_class(plan.hot_store or plan.row_format)(sizes["hot"], **common),
        "level_1": store_class(plan.row_format)(sizes["level_1"], addressing=by_field, **common),
        "level_2": store_class(plan.row_format)(sizes["level_2"], addressing=by_part, **common),
    }
