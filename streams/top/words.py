"""The words and numbers of a `View`, for screens and lines."""

from __future__ import annotations

from streams.records import TrainerMetrics
from streams.top.view import View

__all__ = ["age", "describe_agents", "describe_hot_set", "describe_trainer", "number"]

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def number(value: float | None) -> str:
    """At most five characters.

    >>> [number(one) for one in (None, 0, 7.25, 999, 1234, 56789, 1.5e6)]
    ['-', '0', '7.25', '999', '1.23k', '56.8k', '1.5M']
    """
    if value is None:
        return "-"
    for size, unit in _UNITS:
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def age(seconds: float) -> str:
    """A time span in one unit.

    >>> [age(one) for one in (0, 59.9, 61, 7300, 200000)]
    ['0s', '59s', '1m', '2h', '2d']
    """
    for size, unit in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def describe_hot_set(view: View) -> str:
    """The hot set in a line."""
    verdict = {True: "equals the agents'", False: "DIFFERS from agents'", None: "not compared yet"}[view.verified]
    capacity = "" if view.capacity is None else f" of {view.capacity:,}"
    recall = "" if view.recall is None else f", recall ~{view.recall:.0%}"
    return f"hot {view.hot:,}{capacity}{recall}; {number(view.churn_per_min)} changes/min; {verdict}"


def describe_agents(view: View) -> str:
    """The agents in a line."""
    if not view.shards:
        return "agents: no report yet (start `hotstream agent`)"
    rates = [shard.events_per_s for shard in view.shards if shard.events_per_s is not None]
    silent = [shard for shard in view.shards if shard.silent_s is not None]
    missing = f"; {len(silent)} silent shards" if silent else ""
    lag = sum(shard.lag for shard in view.shards)
    return f"agents: {len(view.shards)} shards, {number(sum(rates))} events/s, {lag:,} behind{missing}"


def describe_trainer(view: View) -> str:
    """The trainer in a line."""
    trainer = view.trainer
    if trainer is None:
        return "trainer: no report yet (start `hotstream train`)"
    if view.trainer_silent_s is not None:
        return f"trainer: silent for {age(view.trainer_silent_s)} after {trainer.rows:,} rows"
    served = "" if trainer.unique_share is None else f", unique rows {trainer.unique_share:.0%}"
    behind = f"{trainer.lag_records:,} behind"
    return f"trainer: {number(trainer.rows_per_s)} rows/s, {behind}{served}; AUC {_auc(trainer)}"


def _auc(trainer: TrainerMetrics) -> str:
    """The AUC of all rows, that of the adaptive embedding first."""
    scores = [(name, value) for name, value in trainer.auc.items() if value is not None]
    if not scores:
        return "-"
    (_, first), *others = sorted(scores)
    rest = ", ".join(f"{name} {value:.4f}" for name, value in others)
    return f"{first:.4f}" + (f" ({rest})" if rest else "")
