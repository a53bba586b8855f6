"""Plans the sizes of an embedding from a byte budget, with every byte counted.

The budget covers what a trainer allocates: rows, one optimizer word per row (Adagrad), and the router's map of hot
keys. The agent's sketch is not memory of the trainer; reports list it separately.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

from sketch.keymap import SLOTS, num_buckets_for
from trainer.embedding.layout import GATE_BYTES, Layout
from trainer.embedding.stores.registry import DEFAULT_ROW_FORMAT, ROW_FORMATS, STORES, row_bytes, vector_bytes
from trainer.errors import PlanError

if TYPE_CHECKING:
    from typing_extensions import Unpack  # of `typing` from Python 3.11 on

    from trainer.embedding.stores.store import OptimizerName

__all__ = [
    "EmbeddingPlan",
    "PlanOptions",
    "filled",
    "hash_plan",
    "largest_fitting",
    "map_bytes",
    "plan",
    "plan_for_capacity",
]

_FLOAT_BYTES = 4
_SLOT_BYTES = 12  # a uint64 key and an int32 value
_USED_BYTES = 1  # per unique row: whether it has a key
_UNIQUE_SHARE = 0.35
_MOST_LEVEL_1, _LEVEL_2_PER_LEVEL_1 = 4, 32


def map_bytes(num_keys: int) -> int:
    """Bytes of a `KeyMap` with room for `num_keys` keys."""
    return num_buckets_for(num_keys) * SLOTS * _SLOT_BYTES


@dataclass(frozen=True, kw_only=True)
class EmbeddingPlan:
    """The sizes of one embedding.

    Args:
        layout: the numbers of rows.
        dim: D, values per row.
        optimizer: `adagrad` keeps one float32 per row, `sgd` nothing.
        router_keys: hot keys that fit in the router without growth; 0 for an embedding without a router.
        row_format: the name of the store of all rows.
        hot_store: the name of the store of unique rows, if it differs.
    """

    layout: Layout
    dim: int
    optimizer: OptimizerName = "adagrad"
    router_keys: int = 0
    row_format: str = DEFAULT_ROW_FORMAT
    hot_store: str | None = None

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
        return row_bytes(self.row_format, self.dim, self.optimizer)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes of the rows, the optimizer state, the router and the gate, and their total."""
        rows = self.capacity_rows * vector_bytes(self.hot_store or self.row_format, self.dim)
        rows += self.layout.num_shared_rows * vector_bytes(self.row_format, self.dim)
        optimizer = self.layout.num_rows * _FLOAT_BYTES if self.optimizer == "adagrad" else 0
        used = self.capacity_rows * _USED_BYTES
        router = used + map_bytes(self.router_keys) if self.router_keys else 0
        gate = self.layout.num_fields * GATE_BYTES if self.router_keys else 0
        parts = {"rows": rows, "optimizer": optimizer, "router": router, "gate": gate}
        return {**parts, "total": sum(parts.values())}


class PlanOptions(TypedDict, total=False):
    """Options of an adaptive embedding besides its size.

    Args:
        unique_share: the share of unique rows among unique and level 2 rows, default .35. Unique rows and router then
            take about half of the bytes (`benchmarks/results/evaluate-ablation.md`).
        most_level_1: the most rows of level 1 per field, default 4; fewer if level 2 has less than 32 rows for each.
        optimizer: determines the bytes of the optimizer state.
        row_format: determines the bytes of a row.
        hot_store: determines the bytes of a unique row, if it differs.
    """

    unique_share: float
    most_level_1: int
    optimizer: OptimizerName
    row_format: str
    hot_store: str | None


def plan_for_capacity(capacity_rows: int, dim: int, num_fields: int, **options: Unpack[PlanOptions]) -> EmbeddingPlan:
    """The plan of an embedding with a given number of unique rows.

    Args:
        capacity_rows: unique rows, at least 1.
        dim: D.
        num_fields: F.
        **options: as `PlanOptions`.

    Raises:
        PlanError: a share outside (0, 1], or an invalid size.
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
    )


def largest_fitting(fits: Callable[[int], bool], fitting: int, too_many: int) -> int:
    """The largest number for which a monotone condition holds, found by bisection.

    Args:
        fits: the condition, true up to the result and false above it.
        fitting: a number that fits, returned if no larger one does; `fits` is not called for it.
        too_many: a number that does not fit; `fits` is not called for it.
    """
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        fitting, too_many = (middle, too_many) if fits(middle) else (fitting, middle)
    return fitting


def plan(embedding_bytes: int, dim: int, num_fields: int, **options: Unpack[PlanOptions]) -> EmbeddingPlan:
    """The largest embedding that fits in `embedding_bytes`, everything counted; options as in `plan_for_capacity`.

    Level 2 gets the remaining bytes, which are fewer than one more unique row and its shared rows would need.

    Raises:
        PlanError: one unique row and one shared row per field do not fit.
    """

    def sized(capacity_rows: int) -> EmbeddingPlan:
        return plan_for_capacity(capacity_rows, dim, num_fields, **options)

    smallest = sized(1)
    if smallest.nbytes["total"] > embedding_bytes:
        raise PlanError(
            f"--embedding-bytes {embedding_bytes}: too few for {num_fields} fields of dimension {dim}; "
            f"expected at least {smallest.nbytes['total']}"
        )
    too_many = embedding_bytes // vector_bytes(smallest.hot_store or smallest.row_format, dim) + 2
    capacity_rows = largest_fitting(lambda rows: sized(rows).nbytes["total"] <= embedding_bytes, 1, too_many)
    return filled(sized(capacity_rows), embedding_bytes)


def filled(fitting: EmbeddingPlan, embedding_bytes: int) -> EmbeddingPlan:
    """The plan with the remaining bytes given to level 2, if the plan has one."""
    if not fitting.layout.level_2_rows:
        return fitting  # a few rows shared by all keys would be worse than none
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
    """The plan of a plain hash table of almost exactly `embedding_bytes`: one level, no unique rows, no router.

    Raises:
        PlanError: fewer rows than fields fit.
    """
    one = row_bytes(row_format, dim, optimizer)
    per_field = embedding_bytes // one // num_fields
    if per_field < 1:
        raise PlanError(f"{embedding_bytes} bytes: less than one row of {one} bytes for each of {num_fields}")
    layout = Layout(num_fields=num_fields, capacity_rows=0, level_1_per_field=per_field, level_2_rows=0)
    return EmbeddingPlan(layout=layout, dim=dim, optimizer=optimizer, row_format=row_format)
