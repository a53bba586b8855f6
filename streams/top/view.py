"""`View`: a moment of a running system, as a terminal or a page shows it."""

from __future__ import annotations

from dataclasses import dataclass

from streams.records import TrainerMetrics

__all__ = ["ChangeLine", "FeatureLine", "FieldLine", "ShardLine", "View"]


@dataclass(frozen=True, kw_only=True)
class FeatureLine:
    """A hot feature.

    Attributes:
        feature: its printed form.
        row: its unique row.
        score: its score when it became hot, or got its row; the topic has no later one.
        age_s: the time since then.
        shard: its shard.
    """

    feature: str
    row: int
    score: float
    age_s: float
    shard: int


@dataclass(frozen=True, kw_only=True)
class ChangeLine:
    """A change of the hot set; `row` and `score` are None for a change to cold."""

    feature: str
    tier: str
    row: int | None
    score: float | None
    age_s: float


@dataclass(frozen=True, kw_only=True)
class FieldLine:
    """A field: its hot features, and the promotions and demotions since the start of the view."""

    field: str
    hot: int
    promotions: int
    demotions: int


@dataclass(frozen=True, kw_only=True)
class ShardLine:
    """A shard, as its agent has reported it.

    Attributes:
        shard: its number.
        epoch: the epoch of its configuration; `seq`: of its last change.
        hot: its hot features.
        events_per_s: feature events counted per second, by its reports of 20 s or more; None before the second.
        lag: importance records that wait.
        silent_s: the time since its last report, if that is more than 10 s; otherwise None.
        is_verified: whether the table that was read equals the agent's by its digest.
    """

    shard: int
    epoch: int
    seq: int
    hot: int
    events_per_s: float | None
    lag: int
    silent_s: float | None
    is_verified: bool


@dataclass(frozen=True, kw_only=True)
class View:
    """A moment of the system; features and changes as far as they match the search.

    Attributes:
        hot: hot features; `capacity`: of the agents, None before their first report.
        verified: whether the table equals the agents' (None: not compared yet).
        recall: the estimated share of the features that should be hot which are; None before the first estimate.
        churn_per_min: changes in the last minute.
        promotions: changes to hot since the start of the view; `demotions`: changes from hot.
        features: the hot features, best score first.
        changes: the last changes, newest first.
        fields: by field, most hot features first.
        shards: by number.
        latency_ms: from click to change, p50 and p99 of the last minute's changes; None without one.
        trainer: the trainer's last report, with the rate of the last 20 s; None before the first.
        trainer_silent_s: as `ShardLine.silent_s`.
    """

    hot: int
    capacity: int | None
    verified: bool | None
    recall: float | None
    churn_per_min: int
    promotions: int
    demotions: int
    features: tuple[FeatureLine, ...]
    changes: tuple[ChangeLine, ...]
    fields: tuple[FieldLine, ...]
    shards: tuple[ShardLine, ...]
    latency_ms: tuple[float, float] | None
    trainer: TrainerMetrics | None
    trainer_silent_s: float | None
