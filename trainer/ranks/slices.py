"""The slice of an embedding that a shard has: a function of the shards, and not of the number of ranks.

shard s of S    unique rows    the range of rows that its agent assigns
                level 1        for each field 1/S of the plan's rows, at least one
                level 2        1/S of the plan's rows
                gates          its own, for each field
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sketch.hashing import shard_of
from streams.assignments.row_ranges import rows_of_shard
from trainer.embedding.layout import Layout
from trainer.embedding.plans import EmbeddingPlan
from trainer.errors import PlanError

__all__ = ["cut_slices", "join_slices", "joined_layout", "seed_of_shard", "slice_plan"]

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


def joined_layout(layout: Layout, num_shards: int) -> Layout:
    """The sizes of all slices of a plan together, which may have a few more rows of level 1 or fewer."""
    return replace(layout, level_1_per_field=num_shards * max(1, layout.level_1_per_field // num_shards))


def join_slices(tensors: Mapping[str, Tensor], capacity_rows: int, num_shards: int) -> dict[str, Tensor]:
    """The rows, gates and hot keys of all slices, one after the other, with the row numbers of the agents.

    Args:
        tensors: `ShardedEmbedding.tensors` of all shards.
        capacity_rows: unique rows of all together.
        num_shards: S.
    """
    served = [name.removeprefix("0.") for name in tensors if name.startswith("0.")]
    served = [name for name in served if name.endswith((".values", ".scales")) or name == "gate"]
    joined = {name: torch.cat([tensors[f"{shard}.{name}"] for shard in range(num_shards)]) for name in served}
    firsts = [rows_of_shard(capacity_rows, num_shards, shard)[0] for shard in range(num_shards)]
    keys = torch.cat([tensors[f"{shard}.router_keys"] for shard in range(num_shards)])
    values = torch.cat([tensors[f"{shard}.router_values"] + first for shard, first in enumerate(firsts)])
    order = torch.from_numpy(np.argsort(keys.numpy().view(np.uint64)))
    return {**joined, "router_keys": keys[order], "router_values": values[order]}


def cut_slices(tensors: Mapping[str, Tensor], layout: Layout, num_shards: int) -> dict[str, Tensor]:
    """The tensors of each slice, as `SHARD.NAME`, from what `join_slices` returned.

    Args:
        tensors: of all slices.
        layout: the sizes of all slices.
        num_shards: S.
    """
    keys = tensors["router_keys"].numpy().view(np.uint64)
    shards = shard_of(keys, num_shards)
    cut = {}
    for shard in range(num_shards):
        first_row = rows_of_shard(layout.capacity_rows, num_shards, shard)[0]
        mine = torch.from_numpy(np.flatnonzero(shards == shard))
        cut[f"{shard}.router_keys"] = tensors["router_keys"][mine]
        cut[f"{shard}.router_values"] = tensors["router_values"][mine] - first_row
        for name, tensor in tensors.items():
            if not name.startswith("router_"):
                first, count = rows_of_shard(len(tensor), num_shards, shard)
                cut[f"{shard}.{name}"] = tensor[first : first + count]
    return cut
