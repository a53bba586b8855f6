"""`TopModel`: what a terminal or a page shows of a running system; it follows topics and draws nothing.

assignments, metrics, ends of importance  --look-->  TopModel  --view-->  View (immutable)
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from heapq import nlargest
from itertools import chain

import numpy as np

from streams.assignments.reader import AssignmentReader
from streams.clients.connector import Connector
from streams.clients.partition_reader import open_partition_log
from streams.clients.topic_reader import TopicReader
from streams.records import AgentMetrics, Assignment, BadRecord, ShardMetrics, TrainerMetrics, decode_metrics
from streams.top.rates import Rate
from streams.topics import Topics

__all__ = ["ChangeLine", "FeatureLine", "FieldLine", "ShardLine", "TopModel", "View"]

_KEPT_CHANGES = 500
_CHURN_MS = 60_000
_ENDS_S = 1.0
_LOOK_MS, _PAUSE_S = 100, 0.1  # many small records come together, not one by one
_STALE_MS = 10_000  # after so long without a report a process is shown as silent


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
        events_per_s: feature events counted per second, in the last 10 s of its reports; None before the second.
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
        trainer: the trainer's last report, with the rate of the last 10 s; None before the first.
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


class TopModel:
    """Follows the assignments and metrics topics. Use `look` and `view` from one thread.

    Memory: the hot features, the last 500 changes of each shard, and the times of the changes of a minute.

    Args:
        connector: the broker.
        clock_ms: the present time in ms since 1970.

    Raises:
        BrokerError: no broker answers within 10 s.
        TopicError: a topic is missing.
    """

    def __init__(
        self, connector: Connector, *, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._connector, self._clock_ms = connector, clock_ms
        self._topics = Topics(connector.prefix)
        self._opened = ExitStack()
        try:
            self._reader = self._opened.enter_context(AssignmentReader(connector))
            self._metrics = self._opened.enter_context(TopicReader(connector, self._topics.metrics))
            self._log = self._opened.enter_context(open_partition_log(connector))
        except BaseException:
            self._opened.close()
            raise
        self._hot: dict[int, tuple[Assignment, int]] = {}  # key -> the change that made it hot, and its time in ms
        self._changes: dict[int, deque[tuple[Assignment, str, int]]] = {}  # by shard: only there they come in order
        self._recent: list[tuple[int, int | None]] = []  # time and latency, in ms, of the changes of the last minute
        self._counts: dict[str, list[int]] = {}  # field -> promotions, demotions
        self._capacity: int | None = None
        self._shards: dict[int, tuple[ShardMetrics, int]] = {}  # the last report and its time
        self._rates: dict[int, Rate] = {}
        self._trainer_rate = Rate()
        self._trainer: TrainerMetrics | None = None
        self._ends: Mapping[int, int] = {}
        self._ends_due_s = 0.0

    def __enter__(self) -> TopModel:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def look(self, timeout_ms: int = 100) -> None:
        """Reads what is new.

        Args:
            timeout_ms: how long to wait for a change.

        Raises:
            BrokerError: the broker refuses.
            TopicError: the topic is no longer the one that was opened.
        """
        for change, record in self._reader.poll(timeout_ms):
            if isinstance(change, Assignment):
                self._take(change, record.timestamp)
        for records in self._metrics.poll(timeout_ms=0).values():
            for record in records:
                self._report(decode_metrics(record.value))
        if time.monotonic() >= self._ends_due_s:
            bounds = self._log.all_bounds(self._topics.importance, len(self._reader.table.shards))
            self._ends = {number: end for number, (_, end) in enumerate(bounds)}
            self._ends_due_s = time.monotonic() + _ENDS_S

    def follow(self, interval_s: float, ends: threading.Event) -> Iterator[None]:
        """Reads without a pause, and yields whenever a picture is due, until `ends` is set.

        Raises:
            BrokerError: the broker refuses.
            TopicError: the topic is no longer the one that was opened.
        """
        due_s = time.monotonic()
        while not ends.is_set():
            self.look(_LOOK_MS)
            if time.monotonic() >= due_s:
                yield
                due_s = time.monotonic() + interval_s
            ends.wait(_PAUSE_S)

    def _take(self, change: Assignment, time_ms: int) -> None:
        name, was_hot = change.feature or f"{change.key:016x}", change.key in self._hot
        counts = self._counts.setdefault(_field_of(name), [0, 0])
        self._hot.pop(change.key, None)
        if change.tier == "hot":
            self._hot[change.key] = change, time_ms
        counts[0] += change.tier == "hot" and not was_hot
        counts[1] += change.tier != "hot" and was_hot
        kept = self._changes.setdefault(change.shard, deque(maxlen=_KEPT_CHANGES))
        kept.appendleft((change, name, time_ms))
        if self._clock_ms() - time_ms <= _CHURN_MS:
            latency_ms = None if change.ingest_ms is None else max(0, time_ms - change.ingest_ms)
            self._recent.append((time_ms, latency_ms))

    def _report(self, metrics: AgentMetrics | TrainerMetrics | BadRecord) -> None:
        if isinstance(metrics, TrainerMetrics):
            self._trainer_rate.add(metrics.time_ms, metrics.rows)
            rate = self._trainer_rate.per_s
            self._trainer = metrics if rate is None else replace(metrics, rows_per_s=rate)
        elif isinstance(metrics, AgentMetrics):
            self._capacity = metrics.capacity
            for number, shard in metrics.shards.items():
                self._shards[number] = shard, metrics.time_ms
                self._rates.setdefault(number, Rate()).add(metrics.time_ms, shard.events)

    def view(self, *, search: str = "", most: int = 200) -> View:
        """The present moment.

        Args:
            search: only features whose printed form contains this text, whatever its case.
            most: the most features and changes.
        """
        now_ms, wanted = self._clock_ms(), search.casefold()
        self._recent = [one for one in self._recent if now_ms - one[0] <= _CHURN_MS]
        promotions, demotions = (sum(counts[index] for counts in self._counts.values()) for index in (0, 1))
        return View(
            hot=self._reader.table.num_hot,
            capacity=self._capacity,
            verified=self._reader.table.history.verified,
            recall=self._recall(),
            churn_per_min=len(self._recent),
            promotions=promotions,
            demotions=demotions,
            features=self._features(wanted, most, now_ms),
            changes=self._last_changes(wanted, most, now_ms),
            fields=self._fields(wanted),
            shards=tuple(self._shard(number, now_ms) for number in sorted(self._shards)),
            latency_ms=self._latency(),
            trainer=self._trainer,
            trainer_silent_s=None if self._trainer is None else _silent_s(self._trainer.time_ms, now_ms),
        )

    def _features(self, wanted: str, most: int, now_ms: int) -> tuple[FeatureLine, ...]:
        found = (one for one in self._hot.values() if wanted in (one[0].feature or "").casefold())
        best = nlargest(most, found, key=lambda one: one[0].score or 0.0)
        return tuple(
            FeatureLine(
                feature=change.feature or f"{change.key:016x}",
                row=-1 if change.row is None else change.row,
                score=change.score or 0.0,
                age_s=max(0, now_ms - time_ms) / 1000,
                shard=change.shard,
            )
            for change, time_ms in best
        )

    def _recall(self) -> float | None:
        """The mean of the shards, which have the same number of rows, but for one."""
        known = [report.recall for report, _ in self._shards.values() if report.recall is not None]
        return sum(known) / len(known) if known else None

    def _latency(self) -> tuple[float, float] | None:
        known = [latency_ms for _, latency_ms in self._recent if latency_ms is not None]
        if not known:
            return None
        p50, p99 = np.percentile(known, [50, 99])
        return float(p50), float(p99)

    def _last_changes(self, wanted: str, most: int, now_ms: int) -> tuple[ChangeLine, ...]:
        found = [
            ChangeLine(
                feature=name,
                tier=change.tier,
                row=change.row,
                score=change.score,
                age_s=max(0, now_ms - time_ms) / 1000,
            )
            for change, name, time_ms in sorted(chain(*self._changes.values()), key=lambda one: -one[2])
            if wanted in name.casefold()
        ]
        return tuple(found[:most])

    def _fields(self, wanted: str) -> tuple[FieldLine, ...]:
        hot: dict[str, int] = {}
        for change, _ in self._hot.values():
            name = _field_of(change.feature or "")
            hot[name] = hot.get(name, 0) + 1
        lines = [
            FieldLine(field=name, hot=hot.get(name, 0), promotions=counts[0], demotions=counts[1])
            for name, counts in self._counts.items()
            if wanted.partition(":")[0] in name.casefold()
        ]
        return tuple(sorted(lines, key=lambda line: (-line.hot, line.field)))

    def _shard(self, number: int, now_ms: int) -> ShardLine:
        report, time_ms = self._shards[number]
        known = self._reader.table.shards
        return ShardLine(
            shard=number,
            epoch=report.epoch,
            seq=report.seq,
            hot=report.hot,
            events_per_s=self._rates[number].per_s,
            lag=max(0, self._ends.get(number, report.next_offset) - report.next_offset),
            silent_s=_silent_s(time_ms, now_ms),
            is_verified=number < len(known) and known[number].seq == known[number].verified_seq,
        )


def _field_of(feature: str) -> str:
    return feature.partition(":")[0]


def _silent_s(time_ms: int, now_ms: int) -> float | None:
    return (now_ms - time_ms) / 1000 if now_ms - time_ms > _STALE_MS else None
