"""From bytes to rows: what an embedding of a given size holds, every byte of it counted.

What is counted is what a trainer allocates: rows, one optimizer word a row (Adagrad), and the router's map of hot
keys. The agent's sketch lives elsewhere and is not the trainer's memory; the reports name it apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

from sketch.keymap import SLOTS, num_buckets_for
from trainer.embedding.layout import Layout
from trainer.embedding.stores.registry import DEFAULT_ROW_FORMAT, ROW_FORMATS, STORES, store_class
from trainer.errors import PlanError

if TYPE_CHECKING:
    from typing_extensions import Unpack  # of `typing` from Python 3.11 on

    from trainer.embedding.stores.store import OptimizerName

__all__ = ["EmbeddingPlan", "PlanOptions", "filled", "hash_plan", "map_bytes", "plan", "plan_for_capacity"]

_FLOAT_BYTES = 4
_SLOT_BYTES = 12  # a uint64 key and an int32 value
_USED_BYTES = 1  # of each unique row: whether it has a key
_GATE_BYTES = 16  # of each field: a float32 and its Adagrad sum, for shared and for unique rows
_UNIQUE_SHARE = 0.35
_MOST_LEVEL_1, _LEVEL_2_PER_LEVEL_1 = 4, 32


def map_bytes(num_keys: int) -> int:
    """Bytes of a `KeyMap` that was made for so many keys."""
    return num_buckets_for(num_keys) * SLOTS * _SLOT_BYTES


@dataclass(frozen=True, kw_only=True)
class EmbeddingPlan:
    """The sizes of one embedding.

    Args:
        layout: its rows.
        dim: D, numbers a row.
        optimizer: `adagrad` keeps one float32 a row, `sgd` nothing.
        router_keys: hot keys that the router has room for without growing; 0 for an embedding without one.
        row_format: the store of all rows, by name.
        hot_store: that of the unique rows, if another.
        gate: whether there is a learned gate for each field and tier.
    """

    layout: Layout
    dim: int
    optimizer: OptimizerName = "adagrad"
    router_keys: int = 0
    row_format: str = DEFAULT_ROW_FORMAT
    hot_store: str | None = None
    gate: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.dim <= 4096:
            raise PlanError(f"dim: got {self.dim}, expected 1 to 4096")
        if self.optimizer not in ("adagrad", "sgd"):
            raise PlanError(f"optimizer: got {self.optimizer!r}, expected 'adagrad' or 'sgd'")
        if self.row_format not in ROW_FORMATS and (self.layout.level_2_rows or self.row_format not in STORES):
            raise PlanError(f"row format: got {self.row_format!r}, expected one of {', '.join(ROW_FORMATS)}")
        if self.hot_store is not None and self.hot_store not in STORES:
            raise PlanError(f"hot store: got {self.hot_store!r}, expected one of {', '.join(STORES)}")

    @property
    def capacity_rows(self) -> int:
        """Unique rows: the agent's `--capacity`."""
        return self.layout.capacity_rows

    @property
    def row_bytes(self) -> int:
        """Bytes of one shared row and of its optimizer state."""
        return store_class(self.row_format).row_bytes(self.dim, self.optimizer)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes of the rows, the optimizer state, the router and the gate, and their total."""
        hot, shared = store_class(self.hot_store or self.row_format), store_class(self.row_format)
        rows = self.capacity_rows * hot.vector_bytes(self.dim)
        rows += self.layout.num_shared_rows * shared.vector_bytes(self.dim)
        optimizer = self.layout.num_rows * _FLOAT_BYTES if self.optimizer == "adagrad" else 0
        used = self.capacity_rows * _USED_BYTES
        router = used + map_bytes(self.router_keys) if self.router_keys else 0
        gate = self.layout.num_fields * _GATE_BYTES if self.gate else 0
        parts = {"rows": rows, "optimizer": optimizer, "router": router, "gate": gate}
        return {**parts, "total": sum(parts.values())}


class PlanOptions(TypedDict, total=False):
    """What the plans of an adaptive embedding may be told besides its size.

    Args:
        unique_share: unique rows of unique rows and level 2, .35 by default: with its router about half of the bytes
            (`benchmarks/results/evaluate-ablation.md`).
        most_level_1: rows of level 1 for each field at most, default 4; fewer where level 2 has less than 32 for each.
        optimizer: decides the bytes of its state.
        row_format: decides the bytes of a row.
        hot_store: decides the bytes of a unique row, if not as all others.
        gate: whether there is a learned gate for each field and tier.
    """

    unique_share: float
    most_level_1: int
    optimizer: OptimizerName
    row_format: str
    hot_store: str | None
    gate: bool


def plan_for_capacity(capacity_rows: int, dim: int, num_fields: int, **options: Unpack[PlanOptions]) -> EmbeddingPlan:
    """The embedding whose unique rows are given.

    Args:
        capacity_rows: unique rows, at least 1.
        dim: D.
        num_fields: F.
        **options: as `PlanOptions`.

    Raises:
        PlanError: a share outside (0, 1), or a size that is none.
    """
    unique_share = options.get("unique_share", _UNIQUE_SHARE)
    if not 0 < unique_share <= 1:
        raise PlanError(f"unique share: got {unique_share}, expected more than 0 and at most 1")
    if capacity_rows < 1:
        raise PlanError(f"capacity: got {capacity_rows} rows, expected at least 1")
    level_2_rows = round(capacity_rows * (1 - unique_share) / unique_share)
    level_1 = level_2_rows // (num_fields * _LEVEL_2_PER_LEVEL_1)
    layout = Layout(
        num_fields=num_fields,
        capacity_rows=capacity_rows,
        level_1_per_field=max(1, min(level_1, options.get("most_level_1", _MOST_LEVEL_1))),
        level_2_rows=level_2_rows,
    )
    return EmbeddingPlan(
        layout=layout,
        dim=dim,
        optimizer=options.get("optimizer", "adagrad"),
        router_keys=capacity_rows,
        row_format=options.get("row_format", DEFAULT_ROW_FORMAT),
        hot_store=options.get("hot_store"),
        gate=options.get("gate", False),
    )


def plan(embedding_bytes: int, dim: int, num_fields: int, **options: Unpack[PlanOptions]) -> EmbeddingPlan:
    """The largest embedding that fits in `embedding_bytes`, everything counted; the rest as `plan_for_capacity`.

    What is left, less than a unique row and its share of shared rows take, goes to level 2.

    Raises:
        PlanError: not even one unique row and one shared row per field fit.
    """

    def sized(capacity_rows: int) -> EmbeddingPlan:
        return plan_for_capacity(capacity_rows, dim, num_fields, **options)

    smallest = sized(1)
    if smallest.nbytes["total"] > embedding_bytes:
        raise PlanError(
            f"--embedding-bytes {embedding_bytes}: too few for {num_fields} fields of dimension {dim}; "
            f"expected at least {smallest.nbytes['total']}"
        )
    hot = store_class(smallest.hot_store or smallest.row_format)
    fits, too_many = 1, embedding_bytes // hot.vector_bytes(dim) + 2
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if sized(middle).nbytes["total"] <= embedding_bytes:
            fits = middle
        else:
            too_many = middle
    return filled(sized(fits), embedding_bytes)


def filled(fitting: EmbeddingPlan, embedding_bytes: int) -> EmbeddingPlan:
    """The plan with what is left of the bytes given to level 2, if it has one."""
    if not fitting.layout.level_2_rows:
        return fitting  # a few rows for all keys would be worse than none
    spare_rows = (embedding_bytes - fitting.nbytes["total"]) // fitting.row_bytes
    layout = replace(fitting.layout, level_2_rows=fitting.layout.level_2_rows + spare_rows)
    return replace(fitting, layout=layout)


def hash_plan(
    embedding_bytes: int,
    dim: int,
    num_fields: int,
    *,
    optimizer: OptimizerName = "adagrad",
    row_format: str = DEFAULT_ROW_FORMAT,
) -> EmbeddingPlan:
    """A plain hash table of (almost exactly) so many bytes: one level, no unique rows, no router.

    Raises:
        PlanError: less than a row per field fits.
    """
    kind = store_class(row_format)
    row_bytes = kind.row_bytes(dim, optimizer)
    per_field = (kind.plan(embedding_bytes, dim, optimizer) - 1) // num_fields
    if per_field < 1:
        raise PlanError(f"{embedding_bytes} bytes: less than one row of {row_bytes} bytes for each of {num_fields}")
    layout = Layout(num_fields=num_fields, capacity_rows=0, level_1_per_field=per_field, level_2_rows=0)
    return EmbeddingPlan(layout=layout, dim=dim, optimizer=optimizer, row_format=row_format)
