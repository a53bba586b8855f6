"""What an agent reports of its shards: metrics, and lines of the log for what a user would otherwise miss."""

from __future__ import annotations

import logging
from typing import Any

from sketch.hotset import REVIEW_EVENTS
from streams.agent.shard import REVIEW_MS, Shard
from streams.records import ShardMetrics

__all__ = ["ShardReports"]

logger = logging.getLogger(__name__)


class ShardReports:
    """The reports of an agent process."""

    def __init__(self) -> None:
        self._other_signals: dict[int, int] = {}
        self._quiet: set[int] = set()

    def metrics(self, shard: Shard) -> ShardMetrics:
        """The metrics of a shard."""
        return ShardMetrics(
            epoch=shard.epoch,
            seq=shard.seq,
            hot=shard.table.num_hot,
            max_hot=shard.max_hot,
            counted=shard.num_counted,
            repeated=shard.num_repeated,
            rejected_scores=shard.hot_set.sketch.num_rejected,
            time_outliers=shard.num_time_outliers,
            other_signals=self._other_signals.get(shard.number, 0),
            events=shard.num_events,
            promotions=shard.num_promotions,
            demotions=shard.num_demotions,
            next_offset=shard.next_offset,
        )

    def note_other_signal(self, shard: Shard, signal: str) -> None:
        """Counts a record whose signal this agent does not count; warns of the first one of a shard."""
        number = shard.number
        self._other_signals[number] = self._other_signals.get(number, 0) + 1
        if self._other_signals[number] == 1:
            logger.warning(
                "shard %d: importance with the signal %s is skipped, as this agent does not count it; start the agents "
                "with --signal %s, or with --signal both, or stop its sender",
                number, signal, signal,
            )  # fmt: skip

    def warn_of_outlier(self, shard: Shard, record: Any) -> None:
        """Warns of an event time that does not count as time, each time the number of these doubles."""
        number = shard.num_time_outliers
        if number & (number - 1) == 0:
            logger.warning(
                "%s/%d, offset %d: the event time is more than a half-life from that of the records before it, so it "
                "does not advance the decay of scores; %d such records so far",
                record.topic, record.partition, record.offset, number,
            )  # fmt: skip

    def note_quiet(self, shard: Shard) -> None:
        """Explains, once, why a shard that has counted events has published no change yet."""
        if shard.num_events and not shard.num_promotions and shard.number not in self._quiet:
            self._quiet.add(shard.number)
            logger.info(
                "shard %d: %d feature events counted and no change yet: the first one comes after %d events of the "
                "shard, or with a record whose event time is %d s or more after the first one's",
                shard.number, shard.num_events, REVIEW_EVENTS, REVIEW_MS // 1000,
            )  # fmt: skip
