"""A `View` as the page gets it: JSON with finite numbers, and names that are escaped and of bounded length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from streams.escapes import escape
from streams.records import TrainerMetrics
from streams.top.view import View

__all__ = ["sample_of", "view_as_json"]

_MAX_LEARNERS = 8
_MAX_NAME = 40


def view_as_json(view: View) -> dict[str, Any]:
    """The live part of the page."""
    return {
        "hot": view.hot,
        "capacity": view.capacity,
        "verified": view.verified,
        "recall": view.recall,
        "churn_per_min": view.churn_per_min,
        "promotions": view.promotions,
        "demotions": view.demotions,
        "latency_ms": view.latency_ms,
        "features": [{**vars(line), "feature": escape(line.feature)} for line in view.features],
        "changes": [{**vars(line), "feature": escape(line.feature)} for line in view.changes],
        "fields": [{**vars(line), "field": escape(line.field)} for line in view.fields],
        "shards": [vars(line) for line in view.shards],
        "trainer": None if view.trainer is None else _trainer(view.trainer, view.trainer_silent_s),
    }


def _trainer(trainer: TrainerMetrics, silent_s: float | None) -> dict[str, Any]:
    return {
        "rows": trainer.rows,
        "rows_per_s": trainer.rows_per_s,
        "lag_records": trainer.lag_records,
        "unique_share": trainer.unique_share,
        "silent_s": silent_s,
        "auc": _by_learner(trainer.auc),
        "window_auc": _by_learner(trainer.window_auc),
        "log_loss": _by_learner(trainer.log_loss),
    }


def sample_of(view: View) -> dict[str, float | None]:
    """The figures of the charts; those of a process that is silent are left out."""
    shards = [shard for shard in view.shards if shard.silent_s is None]
    sample: dict[str, float | None] = {
        "hot": view.hot,
        "capacity": view.capacity,
        "recall": view.recall,
        "churn": view.churn_per_min,
        "change_p50": None if view.latency_ms is None else view.latency_ms[0],
        "change_p99": None if view.latency_ms is None else view.latency_ms[1],
    }
    if shards:
        sample["importance_lag"] = sum(shard.lag for shard in shards)
        sample["events_per_s"] = sum(shard.events_per_s or 0.0 for shard in shards)
    if view.trainer is not None and view.trainer_silent_s is None:
        sample |= _trainer_sample(view.trainer)
    return {name: value for name, value in sample.items() if value is not None}


def _trainer_sample(trainer: TrainerMetrics) -> dict[str, float | None]:
    latency = trainer.latency_ms.get("assignment_to_trainer", {})
    return {
        "click_lag": trainer.lag_records,
        "rows_per_s": trainer.rows_per_s,
        "unique_share": trainer.unique_share,
        "trainer_p50": _number(latency.get("p50")),
        "trainer_p99": _number(latency.get("p99")),
        **{f"auc {name}": value for name, value in _by_learner(trainer.window_auc).items()},
        **{f"loss {name}": value for name, value in _by_learner(trainer.log_loss).items()},
    }


def _by_learner(figures: Mapping[str, Any]) -> dict[str, float | None]:
    return {escape(name, _MAX_NAME): _number(figures[name]) for name in sorted(figures)[:_MAX_LEARNERS]}


def _number(value: Any) -> float | None:
    """A number that JSON and a chart can have; the inner members of metrics may be anything."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
