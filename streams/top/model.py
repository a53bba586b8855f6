"""`TopModel`: what a terminal or a page shows of a running system; it follows topics and draws nothing.

assignments, metrics, ends of importance  --look-->  TopModel  --view-->  View (immutable)
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from heapq import merge
from itertools import islice

from streams.assignments.reader import AssignmentReader
from streams.clients.connector import Connector
from streams.clients.partition_reader import open_partition_log
from streams.clients.topic_reader import TopicReader
from streams.records import AgentMetrics, Assignment, BadRecord, ShardMetrics, TrainerMetrics, decode_metrics
from streams.top.hot_features import HotFeatures, field_of
from streams.top.rates import Rate
from streams.top.recent import RecentChanges
from streams.top.view import ChangeLine, FeatureLine, FieldLine, ShardLine, View
from streams.topics import Topics

__all__ = ["TopModel"]

_KEPT_CHANGES = 500
_CHURN_MS = 60_000
_ENDS_S = 1.0
_LOOK_MS = 30  # for an answer of a near broker; the answer of a far one is there at the next look
_STALE_MS = 10_000  # after so long without a report a process is shown as silent


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
        self._hot = HotFeatures()
        self._changes: dict[int, deque[tuple[Assignment, str, int]]] = {}  # by shard: only there they come in order
        self._recent = RecentChanges(_CHURN_MS)
        self._promotions: Counter[str] = Counter()  # by field
        self._demotions: Counter[str] = Counter()
        self._capacity: int | None = None
        self._shards: dict[int, tuple[ShardMetrics, int]] = {}  # the last report and its time
        self._rates: dict[int, Rate] = {}
        self._trainer_rate = Rate()
        self._trainer: TrainerMetrics | None = None
        self._unread = self._reader.end_offsets()  # by shard: what the topic had when this began, and was not read yet
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

    def look_to_end(self, until_s: float) -> None:
        """Reads what the topics have, but ends at `until_s` by the monotonic clock even if they have more.

        It takes two looks at least: the answer that the first one finds was asked for after the last look before.

        Raises:
            BrokerError: the broker refuses.
            TopicError: the topic is no longer the one that was opened.
        """
        self.look(_LOOK_MS)
        self.look(_LOOK_MS)
        while (self._reader.num_behind or not self.is_current) and time.monotonic() < until_s:
            self.look(_LOOK_MS)

    @property
    def is_current(self) -> bool:
        """Whether all was read that the assignments topic had at the start; before that the hot set is a part of it."""
        if self._unread:
            positions = self._reader.positions()
            self._unread = {number: end for number, end in self._unread.items() if positions[number] < end}
        return not self._unread

    def follow(
        self, interval_s: float, ends: threading.Event, wait: Callable[[float], object] | None = None
    ) -> Iterator[None]:
        """Reads to the end and yields, once an interval, until `ends` is set.

        Between two pictures it reads nothing: many small fetches cost a broker and this process more than a large one.

        Args:
            interval_s: the time between two pictures.
            ends: set to end.
            wait: waits for at most so many seconds; by default until `ends` is set.

        Raises:
            BrokerError: the broker refuses.
            TopicError: the topic is no longer the one that was opened.
        """
        wait = wait or ends.wait
        while not ends.is_set():
            due_s = time.monotonic() + interval_s
            self.look_to_end(due_s)
            yield
            wait(max(0.0, due_s - time.monotonic()))

    def _take(self, change: Assignment, time_ms: int) -> None:
        name = change.feature or f"{change.key:016x}"
        if change.tier == "hot":
            self._promotions[field_of(name)] += not self._hot.put(change, time_ms)
        else:
            self._demotions[field_of(name)] += self._hot.drop(change.key)
        kept = self._changes.get(change.shard)
        if kept is None:
            kept = self._changes[change.shard] = deque(maxlen=_KEPT_CHANGES)
        kept.appendleft((change, name, time_ms))
        self._recent.add(time_ms, None if change.ingest_ms is None else time_ms - change.ingest_ms)

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
        churn_per_min = self._recent.forget(now_ms)
        return View(
            hot=self._reader.table.num_hot,
            capacity=self._capacity,
            verified=self._reader.table.history.verified,
            recall=self._recall(),
            churn_per_min=churn_per_min,
            promotions=self._promotions.total(),
            demotions=self._demotions.total(),
            features=self._features(wanted, most, now_ms),
            changes=self._last_changes(wanted, most, now_ms),
            fields=self._fields(wanted),
            shards=tuple(self._shard(number, now_ms) for number in sorted(self._shards)),
            latency_ms=self._latency(),
            trainer=self._trainer,
            trainer_silent_s=None if self._trainer is None else _silent_s(self._trainer.time_ms, now_ms),
        )

    def _features(self, wanted: str, most: int, now_ms: int) -> tuple[FeatureLine, ...]:
        return tuple(
            FeatureLine(
                feature=change.feature or f"{change.key:016x}",
                row=-1 if change.row is None else change.row,
                score=change.score or 0.0,
                age_s=max(0, now_ms - time_ms) / 1000,
                shard=change.shard,
            )
            for change, time_ms in self._hot.best(most, wanted)
        )

    def _recall(self) -> float | None:
        """The mean of the shards, which have the same number of rows, but for one."""
        known = [report.recall for report, _ in self._shards.values() if report.recall is not None]
        return sum(known) / len(known) if known else None

    def _latency(self) -> tuple[float, float] | None:
        found = self._recent.latency_ms(50, 99)
        return None if found is None else (found[0], found[1])

    def _last_changes(self, wanted: str, most: int, now_ms: int) -> tuple[ChangeLine, ...]:
        newest_first = merge(*self._changes.values(), key=lambda one: -one[2])
        found = (one for one in newest_first if not wanted or wanted in one[1].casefold())
        return tuple(
            ChangeLine(
                feature=name,
                tier=change.tier,
                row=change.row,
                score=change.score,
                age_s=max(0, now_ms - time_ms) / 1000,
            )
            for change, name, time_ms in islice(found, most)
        )

    def _fields(self, wanted: str) -> tuple[FieldLine, ...]:
        promotions, demotions, hot = self._promotions, self._demotions, self._hot.num_by_field
        lines = [
            FieldLine(field=name, hot=hot[name], promotions=promotions[name], demotions=demotions[name])
            for name in promotions.keys() | demotions.keys()
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


def _silent_s(time_ms: int, now_ms: int) -> float | None:
    return (now_ms - time_ms) / 1000 if now_ms - time_ms > _STALE_MS else None
