"""`AgentProgress`: what an agent process has done since it started, for its log line, its report and its metrics."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from streams.agent.input_record import InputRecord
from streams.agent.shard import Shard
from streams.agent.worker import AgentWorker
from streams.records import AgentMetrics, ShardMetrics
from streams.telemetry.latency import LatencyHistogram

__all__ = ["COUNTERS", "REJECTS", "AgentProgress"]

logger = logging.getLogger(__name__)

_INTERVAL_S = 5.0
# The members of `ShardMetrics` that only grow.
COUNTERS = (
    "counted",
    "repeated",
    "events",
    "promotions",
    "demotions",
    "rejected_scores",
    "time_outliers",
    "other_signals",
)
REJECTS = {
    "rejected_scores": "invalid scores",
    "time_outliers": "event times that do not count",
    "other_signals": "records of other signals",
}


class AgentProgress:
    """Looks at an agent once a second, in its event loop, and logs a line every few seconds.

    A shard's own counters begin with the shard's first record and go on in the next process that owns it; these begin
    with 0 in each process.

    Args:
        worker: the agent.
        clock_s: seconds.
        interval_s: the time between two lines.

    Attributes:
        worker: the agent.
        latest: the agent's metrics at the last look.
        totals: by shard, what this process has counted; a shard that is another process's now keeps its totals.
        snapshots: by shard, the seconds since its newest snapshot at the last look, and the records counted since.
        event_times_ms: by shard, the event time of the newest record that this process has counted, if any.
        record_times_ms: by shard, Kafka's time of the newest counted importance record.
        count_delay: the time from the writing of importance records until they were counted.
        has_looked: whether the agent is connected to its group.
        lag: by shard, the importance records not yet counted at the last look; empty before the first answer.
    """

    def __init__(
        self,
        worker: AgentWorker,
        clock_s: Callable[[], float] = time.monotonic,
        *,
        interval_s: float = _INTERVAL_S,
    ) -> None:
        self.worker = worker
        self.latest: AgentMetrics = worker.metrics()
        self.totals: dict[int, Counter[str]] = {}
        self.lag: dict[int, int] = {}
        self.snapshots: dict[int, tuple[float, int]] = {}
        self.event_times_ms: dict[int, int] = {}
        self.record_times_ms: dict[int, int] = {}
        self.count_delay = LatencyHistogram()
        self.has_looked = False
        self._clock_s, self._interval_s = clock_s, interval_s
        self._seen: dict[int, tuple[Shard, ShardMetrics]] = {}
        self._started_s = self._line_s = clock_s()
        self._line_events = 0

    async def count_importance(self, record: InputRecord) -> None:
        """As `AgentWorker.count_importance`, and notes the time of the record."""
        await self.worker.count_importance(record)
        self.record_times_ms[record.partition] = record.timestamp
        self.count_delay.add_one(time.time() * 1000 - record.timestamp)

    @property
    def is_started(self) -> bool:
        """Whether the agent is connected to its group, and counts for one of its shards if it has any."""
        owner = self.worker.ownership
        return self.has_looked and (owner is None or not owner.num_loading or bool(self.worker.shards))

    def note(self) -> None:
        """Adds what the shards have counted since the last call; a shard that is new here has counted nothing yet."""
        self.latest = self.worker.metrics()
        for number, shard in self.worker.shards.items():
            now = self.latest.shards[number]
            totals = self.totals.setdefault(number, Counter(dict.fromkeys(COUNTERS, 0)))
            known, before = self._seen.get(number, (None, now))
            if known is shard:
                for name in COUNTERS:
                    totals[name] += getattr(now, name) - getattr(before, name)
            self._seen[number] = (shard, now)
        shards = self.worker.shards.items()
        self.event_times_ms = {number: shard.event_time_ms for number, shard in shards if shard.event_time_ms}
        owner = self.worker.ownership
        self.snapshots = {} if owner is None else owner.snapshots.ages(list(self.worker.shards))

    async def look(self) -> None:
        """Notes the progress, asks for the lag, and logs a line if one is due.

        Raises:
            BrokerError: the broker does not answer, and the process was asked to stop.
        """
        self.note()
        self.has_looked = True
        owner, topic = self.worker.ownership, self.worker.topics.importance
        ends = {} if owner is None else await owner.ends.fetch(topic, list(self.worker.shards))
        shards = dict(self.worker.shards)  # some may have been given back meanwhile
        self.lag = {
            number: max(0, ends[number] - shard.next_offset) for number, shard in shards.items() if number in ends
        }
        if self._clock_s() - self._line_s >= self._interval_s:
            self._log()

    def offsets(self) -> dict[int, int]:
        """The next importance offset of each shard at the last look."""
        return {number: shard.next_offset for number, shard in self.latest.shards.items()}

    def sums(self) -> dict[str, int]:
        """The totals of all shards."""
        return {name: sum(totals[name] for totals in self.totals.values()) for name in COUNTERS}

    def rejects(self) -> dict[str, int]:
        """What did not count, by reason."""
        sums = self.sums()
        return {"malformed records": self.latest.bad, **{words: sums[name] for name, words in REJECTS.items()}}

    @property
    def hot(self) -> tuple[int, int]:
        """The hot features of the process's shards, and the rows of these shards."""
        shards, config = self.latest.shards, self.worker.config.shards
        return sum(shard.hot for shard in shards.values()), sum(config.rows_of(number)[1] for number in shards)

    def _log(self) -> None:
        sums, now_s = self.sums(), self._clock_s()
        rate = (sums["events"] - self._line_events) / max(now_s - self._line_s, 1e-9)
        self._line_s, self._line_events = now_s, sums["events"]
        hot, rows = self.hot
        lag = sum(self.lag.values())
        rejects = {reason: number for reason, number in self.rejects().items() if number}
        fields = {
            **sums, "events_per_s": round(rate, 1), "lag_records": lag, "hot": hot, "rows": rows,
            "shards": sorted(self.latest.shards), "rejects": rejects,
        }  # fmt: skip
        owner = self.worker.ownership
        loading = "" if owner is None or not owner.num_loading else f"{owner.num_loading} shards to load; "
        if not self.latest.shards:
            why = loading + "none counts yet" if loading else "no shard: the others of the group have all"
            logger.info("%s", why, extra={"fields": fields})
            return
        logger.info(
            "%s records%s, %s events/s, %s records behind, %s of %s rows hot, %s promotions, %s demotions, rejects: %s",
            f"{sums['counted']:,}",
            f" and {sums['repeated']:,} repeated" if sums["repeated"] else "",
            *(f"{n:,.0f}" for n in (rate, lag, hot, rows, sums["promotions"], sums["demotions"])),
            ", ".join(f"{number:,} {reason}" for reason, number in rejects.items()) or "none",
            extra={"fields": fields},
        )  # fmt: skip

    def report(self) -> dict[str, Any]:
        """The figures of the final report."""
        self.note()
        sums = self.sums()
        seconds = max(self._clock_s() - self._started_s, 1e-9)
        hot, rows = self.hot
        return {
            "records": {"counted": sums["counted"], "repeated": sums["repeated"]},
            "events": sums["events"],
            "events_per_s": round(sums["events"] / seconds, 1),
            "rejects": self.rejects(),
            "changes": {"promotions": sums["promotions"], "demotions": sums["demotions"]},
            "hot": hot,
            "rows": rows,
            "capacity": self.latest.capacity,
            "shards": {
                str(number): {
                    "epoch": shard.epoch, "seq": shard.seq, "hot": shard.hot, "max_hot": shard.max_hot,
                    "next_offset": shard.next_offset, "behind": self.lag.get(number),
                }
                for number, shard in sorted(self.latest.shards.items())
            },
        }  # fmt: skip
