"""What each compression of a log's embedding needs: bytes in training, serving and agents, cores, and topic traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streams.keys import Field
from trainer.advise.measured import Measured, QualityCost
from trainer.advise.profile import LogProfile
from trainer.advise.sample import Sample
from trainer.advise.tracking import ImportanceLoad, Tracked, track
from trainer.embedding.plans import EmbeddingPlan, plan
from trainer.embedding.stores.registry import DEFAULT_ROW_FORMAT, row_bytes
from trainer.errors import PlanError

__all__ = ["Size", "Wishes", "full_bytes", "sizes", "traffic"]


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the model shall be.

    Args:
        compressions: the ratios.
        dim: D.
        row_format: the store of the rows.
        features: rows of the full table.
        rows_per_s: clicks a second.
    """

    compressions: tuple[float, ...]
    dim: int
    row_format: str
    features: int
    rows_per_s: float


@dataclass(frozen=True, kw_only=True)
class Size:
    """One ratio.

    Attributes:
        compression: bytes of the full table over those of the embedding.
        infeasible: why no embedding fits; then nothing else is set.
        embedding_bytes: rows, optimizer state, router and gate.
        serving_bytes: the same without the optimizer state, as an export has them.
        unique_rows: hot features: the `--capacity` of agents and trainer.
        shared_rows: rows that all other features share.
        best_share: share of the sample's lookups of its most frequent `unique_rows` features, in hindsight.
        tracked: what an agent of this capacity did with the sample; None if it has rows for every feature in it.
        changes_per_s: changes of the hot set.
        assignment_bytes_per_s: bytes of the records of these changes.
        costs: what the ratio cost in AUC on the streams that were measured.
    """

    compression: float
    infeasible: str | None = None
    embedding_bytes: int = 0
    serving_bytes: int = 0
    unique_rows: int = 0
    shared_rows: int = 0
    best_share: float = 0.0
    tracked: Tracked | None = None
    changes_per_s: float | None = None
    assignment_bytes_per_s: float | None = None
    costs: tuple[QualityCost, ...] = ()


def full_bytes(features: int, dim: int) -> int:
    """Bytes of the table with a float32 row for every feature, and of its optimizer state, as `evaluate` counts."""
    return (features + 1) * row_bytes(DEFAULT_ROW_FORMAT, dim, "adagrad")


def sizes(
    sample: Sample, profile: LogProfile, fields: Sequence[Field], wishes: Wishes, measured: Measured
) -> list[Size]:
    """A size for each ratio. O(L) for each: the hot set runs over the sample."""
    return [_size(sample, profile, fields, wishes, measured, ratio) for ratio in wishes.compressions]


def _size(
    sample: Sample,
    profile: LogProfile,
    fields: Sequence[Field],
    wishes: Wishes,
    measured: Measured,
    compression: float,
) -> Size:
    budget = int(full_bytes(wishes.features, wishes.dim) / compression)
    try:
        planned = plan(budget, wishes.dim, len(fields), row_format=wishes.row_format)
    except PlanError as error:
        return Size(compression=compression, infeasible=str(error))
    capacity = planned.capacity_rows
    tracked = track(sample.lookups, fields, capacity) if capacity < profile.features else None
    changes_per_s = tracked.changes_per_row * wishes.rows_per_s if tracked else None
    costs = measured.costs(wishes.dim, wishes.row_format)
    return Size(
        compression=compression,
        embedding_bytes=planned.nbytes["total"],
        serving_bytes=_serving_bytes(planned),
        unique_rows=capacity,
        shared_rows=planned.layout.num_shared_rows,
        best_share=profile.share_of(capacity),
        tracked=tracked,
        changes_per_s=changes_per_s,
        assignment_bytes_per_s=changes_per_s * tracked.change_bytes if tracked and changes_per_s is not None else None,
        costs=tuple(one for one in costs if one.compression == compression),
    )


def _serving_bytes(planned: EmbeddingPlan) -> int:
    parts = planned.nbytes
    return parts["total"] - parts["optimizer"]


def traffic(sample: Sample, load: ImportanceLoad, wishes: Wishes, measured: Measured) -> dict[str, float]:
    """What the pace asks for, whatever the ratio: bytes a second by topic, and agent cores by signal."""
    features_per_s = wishes.rows_per_s * load.features_per_row
    return {
        "clicks_bytes_per_s": sample.click_bytes * wishes.rows_per_s,
        "importance_bytes_per_s": load.bytes_per_row * wishes.rows_per_s,
        "agent_cores_gradient": features_per_s / measured.agent_features_per_s,
        "agent_cores_frequency": features_per_s / measured.agent_clicks_features_per_s,
    }
