"""Metrics records: the JSON object that every agent and every trainer reports about once a second."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from streams.records.headers import JSON, VERSION, BadRecord, version_reason

__all__ = ["AgentMetrics", "Metrics", "ShardMetrics", "TrainerMetrics", "decode_metrics", "encode_metrics"]

_MAX_BYTES = 1 << 20
Quantiles = dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class ShardMetrics:
    """What an agent reports of one shard; the counters begin with the shard's first record.

    Attributes:
        epoch: the epoch of its configuration; `seq`: of its last change.
        hot: hot features now; `max_hot`: the most so far.
        counted: importance records counted; `repeated`: skipped, because they had been counted before.
        rejected_scores: scores that were not finite, not positive or too large.
        time_outliers: counted records whose event time was more than a half-life from that of the records before them.
        other_signals: records that the process skipped, because it does not count their signal.
        events: feature events counted.
        promotions: changes to hot; `demotions`: changes from hot.
        next_offset: the offset of the next importance record.
        recall: the estimated share of the features that should be hot which are, 0 to 1; None as long as it is unknown.
    """

    epoch: int
    seq: int
    hot: int
    max_hot: int
    counted: int
    repeated: int
    rejected_scores: int
    events: int
    promotions: int
    demotions: int
    next_offset: int
    time_outliers: int = 0
    other_signals: int = 0
    recall: float | None = None


@dataclass(frozen=True, kw_only=True)
class AgentMetrics:
    """What an agent process reports.

    Attributes:
        time_ms: the time of the report, by the agent's clock.
        capacity: hot rows of all shards.
        bad: records that the process has dead-lettered.
        shards: the shards that the process has now, by number.
    """

    time_ms: int
    capacity: int
    bad: int
    shards: dict[int, ShardMetrics] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainerMetrics:
    """What a trainer reports.

    Attributes:
        time_ms: the time of the report, by the trainer's clock.
        rows: click rows trained since the run began; `rows_per_s`: since the last report.
        lag_records: click records not yet trained.
        hot: hot features of the model.
        bad: click records that could not be trained.
        applied: counts of applied changes, by their effect on the embedding.
        assignments: `verified`, whether the hot set equals the agent's (true; false: a digest differed; null: not yet
            compared), and the numbers of records applied, stale and refused, and of digests that differed.
        latency_ms: `p50` and `p99` by name of the interval.
        auc: of all rows, by learner; `window_auc`: of the latest window; `log_loss`: of all rows.
        windows: the latest finished window of rows, with each learner's results.
        unique_share: the share of the last step's lookups that unique rows served, 0 to 1; None before the first step.
    """

    time_ms: int
    rows: int
    rows_per_s: float
    lag_records: int
    hot: int
    bad: int = 0
    applied: dict[str, int] = field(default_factory=dict)
    assignments: dict[str, bool | int | None] = field(default_factory=dict)
    latency_ms: dict[str, Quantiles] = field(default_factory=dict)
    auc: Quantiles = field(default_factory=dict)
    window_auc: Quantiles = field(default_factory=dict)
    log_loss: Quantiles = field(default_factory=dict)
    windows: list[dict[str, Any]] = field(default_factory=list)
    unique_share: float | None = None


Metrics = AgentMetrics | TrainerMetrics
_PROCESSES: dict[str, type[AgentMetrics | TrainerMetrics]] = {"agent": AgentMetrics, "trainer": TrainerMetrics}
Kind = TypeVar("Kind", ShardMetrics, AgentMetrics, TrainerMetrics)
_NAMES = {kind: name for name, kind in _PROCESSES.items()}


_PLAIN: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "list[dict[str, Any]]": (list,),
    "float | None": (int, float, type(None)),
}
_VALUES: dict[str, tuple[type, ...]] = {  # annotation -> types of the object's values
    "Quantiles": (int, float, type(None)),
    "dict[int, ShardMetrics]": (ShardMetrics,),
    "dict[str, Quantiles]": (dict,),
    "dict[str, bool | int | None]": (bool, int, type(None)),
    "dict[str, int]": (int,),
}


def encode_metrics(metrics: Metrics) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Value and headers; a number that is not finite becomes null."""
    body = {"v": VERSION, "process": _NAMES[type(metrics)], **asdict(metrics)}
    return json.dumps(_finite(body), allow_nan=False).encode(), [("content-type", JSON)]


def _finite(value: Any) -> Any:
    """The value, with None instead of every number that JSON cannot represent."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def decode_metrics(value: bytes | None) -> Metrics | BadRecord:
    """Decodes a metrics record; ignores unknown members, and uses the default of a missing one that has a default."""
    if value is None or len(value) > _MAX_BYTES:
        return BadRecord(f"{0 if value is None else len(value)} bytes, expected 1 to {_MAX_BYTES}")
    try:
        body = json.loads(value, parse_constant=_refuse_constant)
        if not isinstance(body, dict):
            return BadRecord(f"got a JSON {type(body).__name__}, expected an object")
        if body.get("v") != VERSION:
            return BadRecord(version_reason(body.get("v")))
        kind = _PROCESSES.get(body.get("process", ""))
        if kind is None:
            return BadRecord(f"process {str(body.get('process'))[:100]!r}, expected one of {sorted(_PROCESSES)}")
        return _agent(body) if kind is AgentMetrics else _decode(TrainerMetrics, body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return BadRecord(f"{type(error).__name__}: {error}")


def _agent(body: Mapping[str, Any]) -> AgentMetrics:
    wrong = next((number for number in body["shards"] if not number.isdecimal() or not number.isascii()), None)
    if wrong is not None:
        raise ValueError(f"'shards': got the name {wrong[:100]!r}, expected the number of a shard")
    shards = {int(number): _decode(ShardMetrics, shard) for number, shard in body["shards"].items()}
    return _decode(AgentMetrics, {**body, "shards": shards})


def _decode(kind: type[Kind], body: Mapping[str, Any]) -> Kind:
    """The dataclass of a JSON object.

    Raises:
        TypeError: a member is missing or has another type.
    """
    annotated = {column.name: str(column.type) for column in fields(kind) if column.name in body}
    for name, wanted in annotated.items():
        if not _fits(body[name], wanted):
            raise TypeError(f"{name!r}: got {str(body[name])[:100]!r}, expected {wanted}")
    return kind(**{name: body[name] for name in annotated})


def _fits(value: Any, wanted: str) -> bool:
    """Whether a value has the type of a member's annotation; of nested objects only the first level is checked."""
    if wanted in _PLAIN:
        return _is_one_of(value, _PLAIN[wanted])
    return isinstance(value, dict) and all(_is_one_of(item, _VALUES[wanted]) for item in value.values())


def _is_one_of(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a value has one of the types, an integer has 64 bits, and a number is finite (`1e999` is not)."""
    if type(value) is int:
        return int in kinds and -(1 << 63) <= value < 1 << 63
    return type(value) in kinds and (type(value) is not float or math.isfinite(value))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
