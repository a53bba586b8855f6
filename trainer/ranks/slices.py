"""The slice of an embedding that a shard has: a function of the shards, and not of the number of ranks.

shard s of S    unique rows    the range of rows that its agent assigns
                level 1        for each field 1/S of the plan's rows, at least one
                level 2        1/S of the plan's rows
                gates          its own, for each field
"""

from __future__ import annotations

from dataclasses import replace

from streams.assignments.row_ranges import rows_of_shard
from trainer.embedding.plans import EmbeddingPlan
from trainer.errors import PlanError

__all__ = ["seed_of_shard", "slice_plan"]

_SEED_STEP = 0x1000_0001  # shard 0 has the seed itself, so one shard is what an embedding without shards is


def seed_of_shard(seed: int, shard: int) -> int:
    """The seed of a shard's initial values and stochastic rounding."""
    return (seed + shard * _SEED_STEP) % (1 << 62)


def slice_plan(plan: EmbeddingPlan, num_shards: int, shard: int) -> EmbeddingPlan:
    """The sizes of a shard's slice; the slice of the only shard is the plan.

    Raises:
        PlanError: the plan has fewer unique rows than shards.
    """
    if plan.capacity_rows < num_shards:
        raise PlanError(
            f"the trainer has {plan.capacity_rows} unique rows for {num_shards} shards: expected at least one a shard"
        )
    whole = plan.layout
    _, capacity_rows = rows_of_shard(whole.capacity_rows, num_shards, shard)
    _, level_2_rows = rows_of_shard(whole.level_2_rows, num_shards, shard)
    layout = replace(
        whole,
        capacity_rows=capacity_rows,
        level_1_per_field=max(1, whole.level_1_per_field // num_shards),
        level_2_rows=level_2_rows,
    )
    return replace(plan, layout=layout, router_keys=capacity_rows)
